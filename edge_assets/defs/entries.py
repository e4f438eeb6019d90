"""What the assets log to MLflow, as entries of the outbox: all that is sent is in them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from urllib.parse import quote

from edge_assets.core.evidence import FOLLOWED, Provenance, Row, Samples
from edge_assets.core.runtimes import RUNTIMES
from edge_assets.core.shapes import written
from edge_assets.core.sizes import KIB, divided
from edge_assets.core.types import Artifact, Built, Result
from edge_assets.core.variant import Variant
from edge_assets.defs.metadata import measured_on
from edge_assets.hashing import Json
from edge_assets.pipeline.candidates import known_of
from edge_assets.pipeline.cell import RELEASE, Cell
from edge_assets.pipeline.judgement import Judgement
from edge_assets.report import words
from edge_assets.settings import dagster_url
from edge_assets.spec.model import Dataset, ModelSpec
from edge_assets.spec.preprocess import AudioPreprocessing, ImagePreprocessing, TextPreprocessing
from resources.mlflow_models import RELEASED
from resources.outbox import HISTORY, PARENT, Entry
from resources.tracking import dagster_tags, variant_tags

# --- variants ------------------------------------------------------------------------------------------


def variant_entry(cell: Cell, built: Built, made_by: Variant | None, run_id: str) -> Entry:
    """The MLflow run of one variant. `made_by` is None for the checkpoint."""
    numbers = built.verified.numbers() if built.verified else {}
    if built.size_bytes is not None:
        numbers["size_bytes"] = built.size_bytes
    tags = variant_tags(
        cell.path,
        artifact=built.variant,
        format=built.format,
        precision=built.precision,
        sha256=built.build.sha256 if built.artifact else "",
        recipe_sha256=built.build.recipe.sha256,
        refused="" if built.failed else built.build.refused or "",
        failed=built.failed or "",
    )
    told = {name: value for name, value in tags.items() if value}
    return Entry(
        cell=cell.path,
        run=built.variant,
        kind="variant",
        parameters=_parameters(built),
        metrics=numbers,
        tags=told | _origin(cell, built) | _source(cell, built.variant) | dagster_tags(run_id),
        artifact=_files(built.artifact),
        model=_model(cell, built, made_by),
        datasets=_datasets(cell, made_by),
    )


def _origin(cell: Cell, built: Built) -> dict[str, str]:
    """Tags that say who computed the accuracy and parity of a variant, until the report knows all tiers."""
    known_so_far = known_of(cell, replace(built, elsewhere=None))
    if known_so_far is None:
        return {}
    provenance = known_so_far.provenance
    return _known_by({"parity": provenance, "accuracy": provenance})


def _parameters(built: Built) -> dict[str, object]:
    """What shaped a variant: the scheme, its parameters, and the versions of tools."""
    recipe = built.build.recipe
    parameters = {**recipe.parameters, "recipe": built.recipe}
    for name, installed in recipe.tools.items():
        # MLflow takes no @ in names, which scoped npm packages begin with
        parameters[f"tool.{name.replace('@', '')}"] = installed
    return parameters


def _source(cell: Cell, artifact: str) -> dict[str, str]:
    """What MLflow shows as the run's source: the asset that it comes from."""
    return {"mlflow.source.name": "/".join(cell.asset(artifact)), "mlflow.source.type": "JOB"}


def _model(cell: Cell, built: Built, made_by: Variant | None) -> dict[str, Json] | None:
    """How MLflow keeps the artifact as a model of one of its flavors; None where it has none for it."""
    if built.artifact is None or made_by is None or made_by.mlflow_flavor is None:
        return None
    if len(built.artifact.files) > 1:  # a graph with its weights beside it, which MLflow would load to keep it
        return None
    return {
        "flavor": made_by.mlflow_flavor,
        "inputs": written(cell.spec.inputs),
        "outputs": written(cell.spec.outputs),
        "requirements": [f"{name}=={installed}" for name, installed in made_by.tool_versions().items()],
        "example": written(cell.data.example().artifact),
    }


def _datasets(cell: Cell, made_by: Variant | None) -> list[dict[str, object]]:
    """The data that the variant was judged on, and that it was made with."""
    spec = cell.spec
    needs = made_by.needs if made_by else frozenset()
    used = [_dataset(cell, "evaluation", spec.evaluation.data, cell.data.evaluation)]
    if "calibration" in needs:
        used.append(_dataset(cell, "calibration", spec.calibration.data, cell.data.calibration))
    if "training" in needs and spec.finetuning:
        used.append(_dataset(cell, "training", spec.finetuning.data, cell.data.training))
    return used


def _dataset(cell: Cell, context: str, dataset: Dataset, result: Result) -> dict[str, object]:
    """As the outbox has it: the digest is the hash of what the store keeps."""
    return {
        "name": f"{cell.spec.name} {context}",
        "digest": result.sha256,
        "context": context,
        "source": {"load": dataset.load, "version": dataset.version, "sha256": result.sha256},
        "samples": result.said(Samples).samples,
        "fields": cell.data.fields(result),
    }


# --- the report ----------------------------------------------------------------------------------------


def report_entries(judgement: Judgement, built: Result, run_id: str) -> list[Entry]:
    """Measurements added to each variant's run; plots, tables and a description to the parent's."""
    cell = judgement.cell
    entries = []
    for row in judgement.rows:
        entry = Entry(
            cell=cell.path,
            run=row.artifact,
            kind="report",
            metrics=_verified_numbers(judgement, row) | row.measured_numbers(),
            tags={"verdict": row.verdict, "reason": row.reason} | _tiers(row),
        )
        entries.append(entry)
    conditions = judgement.candidates.conditions
    # tags, because a later measurement changes them, and MLflow's parameters never change
    tags = {
        "mode": judgement.candidates.mode or "memory only",
        "threads": str(judgement.candidates.threads),
        "cpu": conditions.machine.cpu,
        "cores": str(conditions.machine.cores),
        "measured_on": measured_on(judgement),
        "dagster.asset_url": _asset_url(cell),
    }
    parent = Entry(
        cell=cell.path,
        run=PARENT,
        kind="report",
        tags=tags | _source(cell, RELEASE) | dagster_tags(run_id),
        artifact=_files(built.artifact),
        description=_description(judgement),
    )
    return [*entries, parent]


def _verified_numbers(judgement: Judgement, row: Row) -> dict[str, float]:
    """Accuracy and parity of the tiers that count, in place of this machine's; empty where nothing was verified."""
    known = known_of(judgement.cell, judgement.builts[row.artifact])
    return known.counting.numbers() if known else {}


def _tiers(row: Row) -> dict[str, str]:
    """Tags that say how each kind of number is known, and who computed it; a later build's replace them."""
    tags = _known_by(row.provenance or {})
    observed = list(words.observed(row))
    if observed:
        tags["observations"] = "; ".join(observed)
    if row.findings:
        tags["contradiction"] = "; ".join(row.findings)
    if row.disturbed:
        tags["disturbed"] = row.disturbed
    return tags


def _known_by(provenance: Mapping[str, Provenance]) -> dict[str, str]:
    tags: dict[str, str] = {}
    for kind, origin in provenance.items():
        tags[f"tier.{kind}"] = origin.tier
        tags[f"by.{kind}"] = origin.by
    return tags


def _description(judgement: Judgement) -> str:
    """The cell in Markdown: what it is, the verdicts with the numbers that they rest on, and why."""
    cell = judgement.cell
    parts = [
        f"Released: {_released(judgement.rows)}",
        _verdicts(judgement.rows),
        f"{cell.spec.name}: {cell.spec.description} Times: {measured_on(judgement)}.",
    ]
    return "\n\n".join(parts)


def _released(rows: Sequence[Row]) -> str:
    for row in rows:
        if row.verdict == "released":
            return f"**{row.artifact}**, {row.reason}"
    return "nothing: no variant passed every gate"


def _verdicts(rows: Sequence[Row]) -> str:
    metric, drop = words.headings(rows)
    drop = drop.replace("points", "(points)")
    if metric != "accuracy":
        drop = f"{metric} {drop}"
    lines = [f"| variant | verdict | size (KiB) | {drop} | P50 (ms) | why |", "|---|---|---:|---:|---:|---|"]
    for row in rows:
        cells = [row.artifact, row.verdict, _number(divided(row.size_bytes, KIB)), words.drop(row), _number(row.p50_ms)]
        cells.append(row.reason)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _asset_url(cell: Cell) -> str:
    path = "/".join(cell.asset(RELEASE))
    return f"{dagster_url()}/assets/{path}?view=partitions&partition={quote(cell.partition)}"


# --- the release ---------------------------------------------------------------------------------------


def release_entries(judgement: Judgement, built: Result, card: str, run_id: str) -> list[Entry]:
    """The released folder on the winner's run and its registered version; its numbers on the parent and in the history.

    `card` is the version's description.
    """
    cell, row = judgement.cell, judgement.winning_row()
    checkpoint = cell.checkpoint
    assert row.size_bytes is not None
    numbers = _verified_numbers(judgement, row) | {"size_bytes": row.size_bytes} | row.measured_numbers()
    version: dict[str, Json] = {
        "release_sha256": built.sha256,
        "flavor": RELEASED,
        "checkpoint": checkpoint.key,
        "artifact": row.artifact,
        "registered": checkpoint.registered,
        "number": checkpoint.number,
        "reason": row.reason,
    }
    released = Entry(
        cell=cell.path,
        run=row.artifact,
        kind="release",
        tags={"verdict": "released", "release_sha256": built.sha256} | dagster_tags(run_id),
        artifact=_files(built.artifact),
        model=_released_model(cell, cell.family.variant(row.artifact)),
        version=version,
        description=card,
    )
    parent = Entry(
        cell=cell.path,
        run=PARENT,
        kind="release",
        metrics=numbers,
        tags={"released": row.artifact, "reason": row.reason} | _tiers(row),
    )
    entries = [released, parent]
    if checkpoint.number:  # of earlier versions, which gave none, nobody knows the order
        entries.append(_history_entry(cell, numbers))
    return entries


def _released_model(cell: Cell, winner: Variant) -> dict[str, Json]:
    """How MLflow keeps the released folder: as a function from raw fields, by the folder's own code."""
    needed = ["numpy", *cell.spec.preprocess.tools, *RUNTIMES[winner.runtime].loader_needs]
    return {
        "flavor": RELEASED,
        "inputs": _raw_inputs(cell.spec),
        "outputs": written(cell.spec.outputs),
        "requirements": list(_pinned(needed)),
    }


def _raw_inputs(spec: ModelSpec) -> Json:
    """What the preprocessing takes, as tensors; texts have the dtype `string`."""
    preprocess = spec.preprocess
    if isinstance(preprocess, ImagePreprocessing):
        size: list[Json] = [preprocess.height, preprocess.width]
        if preprocess.resize != "none" or preprocess.least:
            size = ["height", "width"]
        shape: list[Json] = ["batch", *size, preprocess.channels]
        return [{"name": preprocess.input, "dtype": "uint8", "shape": shape}]
    if isinstance(preprocess, AudioPreprocessing):
        return [{"name": preprocess.input, "dtype": "float32", "shape": ["batch", "samples"]}]
    if isinstance(preprocess, TextPreprocessing):
        return [{"name": preprocess.field, "dtype": "string", "shape": ["batch"]}]
    steps = ("steps",) if spec.states else ()
    fed = []
    for tensor in spec.fed_inputs:
        fed.append(replace(tensor, shape=("batch", *steps, *tensor.sample_shape)))
    return written(fed)


def _pinned(names: list[str]) -> Iterator[str]:
    """Requirements of the versions that are installed here; what is not, by its name alone."""
    for name in dict.fromkeys(names):
        try:
            yield f"{name}=={version(name)}"
        except PackageNotFoundError:
            yield name


def _history_entry(cell: Cell, numbers: dict[str, float]) -> Entry:
    """What was released of a checkpoint, as a step of the run that follows the target over its checkpoints."""
    return Entry(
        cell=f"{cell.spec.name}/{cell.family.name}/{HISTORY}/{cell.target.name}",
        run=PARENT,
        kind=HISTORY,
        metrics={name: numbers[name] for name in FOLLOWED if name in numbers},
        tags=_source(cell, RELEASE),
        description=f"What was released of **{cell.spec.name}** for **{cell.target.name}**: each step is a checkpoint, "
        "in order of registration (the tag `number` of the registered versions).",
        step=cell.checkpoint.number,
        time_ms=int(cell.checkpoint.registered * 1000),
    )


def _files(artifact: Artifact | None) -> dict[str, object] | None:
    """An artifact as the outbox keeps it."""
    return asdict(artifact) if artifact else None
