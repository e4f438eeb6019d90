"""The Dagster instance of this state folder."""

import os

import dagster as dg

from edge_assets.settings import Home

# Runs one at a time: two at once would disturb each other's measurements. No welcome dialog, no telemetry.
DAGSTER_YAML = """\
concurrency:
  runs:
    max_concurrent_runs: 1
run_monitoring:
  enabled: true
nux:
  enabled: false
telemetry:
  enabled: false
"""


def prepare(home: Home) -> None:
    """Create the state folder with its dagster.yaml, and point DAGSTER_HOME there unless it is set already."""
    home.dagster.mkdir(parents=True, exist_ok=True)
    home.mlflow.mkdir(parents=True, exist_ok=True)
    configuration = home.dagster / "dagster.yaml"
    if not configuration.exists():
        configuration.write_text(DAGSTER_YAML)
    os.environ.setdefault("DAGSTER_HOME", str(home.dagster))


def open_instance(home: Home) -> dg.DagsterInstance:
    """The instance that the web server and the daemon use too."""
    prepare(home)
    return dg.DagsterInstance.get()
