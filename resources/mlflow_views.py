"""How an experiment opens in MLflow's pages: as model training, with tables of variants that need no setting up.

MLflow's runs table reads a shared view from a tag of the experiment, named by `viewStateShareKey` in the address. The
tag's value is the state of the page as JSON; from MLflow 3.17 on, one with a name is in the list of saved views too.
A filter in the address would take the view's place instead of narrowing it, so each checkpoint has a view of its own.

Whether pages are those of model training or of GenAI is the experiment's tag up to MLflow 3.8; after it each browser
chooses, beginning with GenAI, and only the address can say otherwise.
"""

import json
from collections.abc import Mapping

KIND_TAG = "mlflow.experimentKind"
MODEL_TRAINING = "custom_model_development"  # what MLflow calls it; it takes experiments for GenAI otherwise
VIEW_TAG = "mlflow.sharedViewState."
VIEW = "variants"
VIEW_NAME = "Variants of all targets"
VERDICT = "verdict"
SUPERSEDED = "superseded"  # the verdict of runs that another run of the same variant replaced
MODEL_TRAINING_PAGES = "workflowType=machine_learning"  # in an address
COLUMNS = {  # with their widths
    "tags.`target`": 130,
    "tags.`verdict`": 120,
    "tags.`precision`": 90,
    "metrics.`size_bytes`": 110,
    "metrics.`accuracy`": 90,
    "metrics.`accuracy_drop_points`": 180,
    "metrics.`latency_p50_ms`": 140,
    "metrics.`parity_snr_db`": 130,
}
CHECKPOINT_COLUMN = {"tags.`checkpoint`": 200}


def view_key(checkpoint: str) -> str:
    """The key of the view of one checkpoint's variants."""
    return f"{VIEW}-{checkpoint}"


def view_path(experiment: str, checkpoint: str | None = None) -> str:
    """Where MLflow's pages show a view, relative to their address."""
    key = view_key(checkpoint) if checkpoint else VIEW
    return f"#/experiments/{experiment}/runs?viewStateShareKey={key}&{MODEL_TRAINING_PAGES}"


def run_path(experiment: str, run_id: str) -> str:
    """Where MLflow's pages show a run, relative to their address."""
    return f"#/experiments/{experiment}/runs/{run_id}?{MODEL_TRAINING_PAGES}"


def experiment_tags(created: int, checkpoint: str | None) -> Mapping[str, str]:
    """The tags that hold the views: of all variants, and of one checkpoint's.

    `created` is the time of the experiment in ms, and of the view: so that it stays as it is.
    """
    state = _state(COLUMNS | CHECKPOINT_COLUMN, f"tags.{VERDICT} != '{SUPERSEDED}'")
    # the state itself is what MLflow before 3.17 reads; after it, the same within a name and a time
    named = {"name": VIEW_NAME, "createdAt": created, "updatedAt": created, "state": json.dumps(state)}
    tags = {f"{VIEW_TAG}{VIEW}": json.dumps(state | named)}
    if checkpoint:
        own = _state(COLUMNS, f"tags.{VERDICT} != '{SUPERSEDED}' and tags.checkpoint = '{checkpoint}'")
        tags[f"{VIEW_TAG}{view_key(checkpoint)}"] = json.dumps(own)
    return tags


def _state(columns: Mapping[str, int], searched: str) -> dict[str, object]:
    """The state of the page: every field, because earlier versions of MLflow put no default where one is missing."""
    return {
        "searchFilter": searched,
        "orderByKey": "metrics.`size_bytes`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": list(columns),
        "columnOrder": list(columns),
        "columnWidths": dict(columns),
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "FIRST_20_RUNS",
        "viewMaximized": True,
        "runListHidden": False,
        "isAccordionReordered": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }
