"""The Dagster instance of this state folder, and the folder itself."""

import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import yaml
from filelock import FileLock
from sqlalchemy.exc import OperationalError

from edge_assets.errors import EdgeAssetsError
from edge_assets.settings import Home, home_mode

Say = Callable[[str], None]
LOCKED_SECONDS = 60  # how long to wait for a database that another process writes to

DAGSTER_YAML = """\
# Written by edge-assets, and replaced by later versions unless it was changed. `edge-assets doctor` says what a
# changed one lacks.

# Runs one at a time: two at once would disturb each other's measurements.
concurrency:
  runs:
    max_concurrent_runs: 1
# A code server that died is started again: what is queued waits for it.
run_queue:
  max_user_code_failure_retries: 120
  user_code_failure_retry_delay: 5
# "Terminate" also for runs whose server is gone.
run_launcher:
  module: edge_assets.defs.launcher
  class: RunLauncher
# A run that takes longer than a day is taken to hang. A run's tag dagster/max_runtime says otherwise, in seconds.
run_monitoring:
  enabled: true
  max_runtime_seconds: 86400
# Ticks that started nothing are kept for a day.
retention:
  sensor:
    purge_after_days:
      skipped: 1
nux:
  enabled: false
telemetry:
  enabled: false
"""

# What former versions wrote: such a file is nobody's own yet.
FORMER_YAML = (
    """\
concurrency:
  runs:
    max_concurrent_runs: 1
run_monitoring:
  enabled: true
nux:
  enabled: false
telemetry:
  enabled: false
""",
)
NEEDED = (
    ("concurrency.runs.max_concurrent_runs", "runs at the same time disturb each other's measurements"),
    ("run_queue.max_user_code_failure_retries", "a queued run fails if the code server is being started again"),
    ("run_launcher.class", '"Terminate" fails for a run whose server is gone'),
    ("run_monitoring.max_runtime_seconds", "a run that hangs keeps the queue waiting for ever"),
)


def prepare(home: Home, say: Say | None = None) -> None:
    """Create the state folder with its dagster.yaml, and point DAGSTER_HOME there unless it is set already.

    `say` is told what was changed of a folder that was there before.
    """
    home.root.parent.mkdir(parents=True, exist_ok=True)
    _keep_to_its_owner(home.root, say or (lambda _line: None))
    home.dagster.mkdir(exist_ok=True)
    home.mlflow.mkdir(exist_ok=True)
    configuration = home.dagster / "dagster.yaml"
    if not configuration.exists() or configuration.read_text() in FORMER_YAML:
        replacement = configuration.with_suffix(f".{os.getpid()}")
        replacement.write_text(DAGSTER_YAML)
        replacement.replace(configuration)
    os.environ.setdefault("DAGSTER_HOME", str(home.dagster))


def open_instance(home: Home, say: Say | None = None) -> dg.DagsterInstance:
    """The instance that the web server and the daemon use too."""
    prepare(home, say)
    with changing():  # two at once would both create its databases
        return dg.DagsterInstance.get()


def add_partitions(instance: dg.DagsterInstance, name: str, keys: Sequence[str]) -> None:
    """Add the dynamic partitions that are not there yet, whatever other processes add meanwhile.

    Raises EdgeAssetsError if the database stays locked.
    """
    deadline = time.monotonic() + LOCKED_SECONDS
    with changing():
        while True:
            known = set(instance.get_dynamic_partitions(name))
            missing = [key for key in dict.fromkeys(keys) if key not in known]
            try:
                if missing:
                    instance.add_dynamic_partitions(name, missing)
                return
            except OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise EdgeAssetsError(f"cannot write to {instance.root_directory}: {error.orig}") from error
                time.sleep(0.2)


@contextmanager
def changing() -> Iterator[None]:
    """Alone, among the commands of one machine, in changing what the instance consists of."""
    with FileLock(Path(os.environ["DAGSTER_HOME"]) / ".edge-assets.lock"):
        yield


def missing_settings(home: Home) -> list[str]:
    """What a dagster.yaml of the user's own lacks, each with what follows from it."""
    path = Path(os.environ.get("DAGSTER_HOME") or home.dagster) / "dagster.yaml"
    if not path.exists() or path.read_text() in FORMER_YAML:
        return []
    try:
        settings = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        return [f"{path} is not readable: {' '.join(str(error).split())}"]
    return [f"{path} has no {name}: {follows}" for name, follows in NEEDED if _setting(settings, name) is None]


def _setting(settings: object, name: str) -> object:
    for part in name.split("."):
        if not isinstance(settings, dict):
            return None
        settings = settings.get(part)
    return settings


def _keep_to_its_owner(folder: Path, say: Say) -> None:
    """Models, databases and logs are for their owner alone unless EDGE_ASSETS_HOME_MODE says otherwise."""
    mode = home_mode()
    try:
        folder.mkdir(mode=mode)
        folder.chmod(mode)  # mkdir leaves out what the umask names
        return
    except FileExistsError:
        pass
    found = folder.stat()
    wider = stat.S_IMODE(found.st_mode) & ~mode & 0o777
    if not wider or found.st_uid != os.geteuid():
        return  # another account's folder is that account's to decide on
    if found.st_mode & stat.S_ISVTX or folder in (Path.home(), Path.cwd(), *Path.cwd().parents):
        say(f"{folder} can be read by other accounts, and so can what edge-assets keeps there: give it a folder alone")
        return
    folder.chmod(stat.S_IMODE(found.st_mode) & ~wider)
    say(f"{folder} could be read by other accounts; now only as EDGE_ASSETS_HOME_MODE says, or by you alone")
