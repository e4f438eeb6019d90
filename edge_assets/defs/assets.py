"""One family's asset graph for one model: checkpoint, variants, benchmark_report, release.

Every asset of a family shares one partitions definition, checkpoint x target, so that one run is one
checkpoint on one target and no cell shows a result of another.
"""

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, TypeVar

import dagster as dg

from edge_assets.core.checkpoint import load_model
from edge_assets.core.select import judge
from edge_assets.core.types import Built, Report
from edge_assets.core.variant import CHECKPOINT, Variant
from edge_assets.defs import code, entries, freshness, metadata
from edge_assets.families.family import Family
from edge_assets.hashing import digest
from edge_assets.pipeline import rows
from edge_assets.pipeline.cell import RELEASE, REPORT, Cell
from edge_assets.pipeline.judgement import Judgement
from edge_assets.pipeline.measurement import Measurement
from edge_assets.pipeline.plan import Materialized
from edge_assets.pipeline.reference import Reference
from edge_assets.settings import home
from edge_assets.spec.model import ModelSpec
from edge_assets.targets import Target
from edge_assets.targets.project import target
from resources import checkpoints
from resources.artifacts import ArtifactStoreResource, as_failures
from resources.tracking import MLflowTracking

GRAPH_VERSION = "3"  # of the assets that are not variants

Compute = TypeVar("Compute", bound=Callable[..., Any])


class BenchmarkConfig(dg.Config):
    """How long to measure: MLPerf Mobile's 64 queries and 6 s, 128 and 10 s, or 1024 and 60 s."""

    mode: Literal["rapid", "quick", "release"] = "rapid"


def checkpoint_partitions(spec: ModelSpec) -> dg.DynamicPartitionsDefinition:
    """The model's checkpoints, in order of registration."""
    return dg.DynamicPartitionsDefinition(name=f"{spec.name}_checkpoints")


def family_partitions(spec: ModelSpec, targets: list[Target]) -> dg.MultiPartitionsDefinition:
    """Checkpoint x target."""
    names = dg.StaticPartitionsDefinition([entry.name for entry in targets])
    return dg.MultiPartitionsDefinition({"checkpoint": checkpoint_partitions(spec), "target": names})


def family_assets(
    spec: ModelSpec,
    family: Family,
    targets: list[Target],
) -> list[dg.AssetsDefinition]:
    """The asset definitions of one model and family."""
    partitions = family_partitions(spec, targets)
    return [
        _checkpoint_asset(spec, family, partitions),
        *(_variant_asset(spec, family, partitions, variant) for variant in family.variants),
        _report_asset(spec, family, partitions),
        _release_asset(spec, family, partitions, targets),
    ]


def asset_key(spec: ModelSpec, family: Family, artifact: str) -> dg.AssetKey:
    """model/family/artifact."""
    return dg.AssetKey([spec.name, family.name, artifact])


def partition_key(cell: Cell) -> dg.MultiPartitionKey:
    """The partition of a cell's assets."""
    return dg.MultiPartitionKey({"checkpoint": cell.checkpoint.key, "target": cell.target.name})


def known_to(instance: dg.DagsterInstance) -> Materialized:
    """Which partitions of an asset an instance has, each asset asked for once: planning looks at many cells."""
    return cache(lambda asset: instance.get_materialized_partitions(dg.AssetKey(asset)))


@contextmanager
def clear_errors(context: dg.AssetExecutionContext) -> Iterator[None]:
    """Every error as one message without a traceback; of one that is not the user's to fix, a log has the rest."""
    with as_failures(home().cache, f"{context.asset_key.to_user_string()} {context.partition_key}"):
        yield


def inspected_once(compute: Compute) -> Compute:
    """With its signature kept: while Dagster makes an asset of a function, it asks eighteen times for that."""
    compute.__signature__ = inspect.signature(compute)  # type: ignore[attr-defined]
    return compute


def open_cell(
    context: dg.AssetExecutionContext,
    spec: ModelSpec,
    family: Family,
    store: ArtifactStoreResource,
) -> Cell:
    """The cell that this run's partition names. A partition added by hand is looked up in the model's folder."""
    from edge_assets.spec.project import checkpoint_folder

    assert isinstance(context.partition_key, dg.MultiPartitionKey)
    keys = context.partition_key.keys_by_dimension
    opened = store.open()
    opened.workspaces.sweep()
    if keys["checkpoint"] not in opened.pointers.names(f"checkpoints/{spec.name}"):
        checkpoints.discover(opened, spec.name, checkpoint_folder(spec))
    checkpoint = checkpoints.lookup(opened, spec.name, keys["checkpoint"])
    return Cell(spec, family, target(keys["target"]), checkpoint, opened, context.log.info)


def _common(
    spec: ModelSpec,
    family: Family,
    partitions: dg.PartitionsDefinition,
    name: str,
) -> dict[str, Any]:
    return {
        "key": asset_key(spec, family, name),
        "partitions_def": partitions,
        "group_name": f"{spec.name}_{family.name}",
        "owners": list(spec.owners),
        "tags": {"edge_assets/model": spec.name, "edge_assets/family": family.name},
        "io_manager_key": "pointers",
    }


def check_specs(
    key: dg.AssetKey,
    partitions: dg.PartitionsDefinition,
    checks: Mapping[str, str],
) -> list[dg.AssetCheckSpec]:
    """An asset's checks by partition, from their descriptions by name."""
    specs = []
    with warnings.catch_warnings():
        # partitioned checks are in preview; without them a check shows only its newest partition's result
        warnings.simplefilter("ignore", dg.PreviewWarning)
        for check, description in checks.items():
            specs.append(
                dg.AssetCheckSpec(
                    check,
                    asset=key,
                    description=description,
                    partitions_def=partitions,
                )
            )
    return specs


def _ins(spec: ModelSpec, family: Family, names: Sequence[str]) -> dict[str, dg.AssetIn]:
    return {name: dg.AssetIn(key=asset_key(spec, family, name)) for name in names}


def _checkpoint_asset(
    spec: ModelSpec,
    family: Family,
    partitions: dg.PartitionsDefinition,
) -> dg.AssetsDefinition:
    @dg.asset(
        **_common(spec, family, partitions, CHECKPOINT),
        description="The checkpoint, read safely and checked against the architecture, with calibration and "
        "evaluation data checked and PyTorch eager's outputs recorded as the reference.",
        metadata=code.calls(Reference.build, load_model, model=spec.architecture),
        kinds={"pytorch", "safetensors"},
        code_version=GRAPH_VERSION,
    )
    @inspected_once
    def checkpoint(
        context: dg.AssetExecutionContext,
        store: ArtifactStoreResource,
        tracking: MLflowTracking,
    ) -> dg.MaterializeResult[Built]:
        with clear_errors(context):
            cell = open_cell(context, spec, family, store)
            built = cell.reference.build()
            urls = tracking.log([entries.variant_entry(cell, built, None, context.run_id)], context.log.warning)
        return dg.MaterializeResult(
            value=built,
            metadata=metadata.variant(cell, built, urls),
            data_version=dg.DataVersion(built.data_version),
        )

    definition: dg.AssetsDefinition = checkpoint
    return definition


def _largest_drop(spec: ModelSpec) -> str:
    """The gate of the metric that decides, in words."""
    deciding = spec.evaluation.deciding
    if deciding.max_drop is not None:
        return f"{deciding.max_drop:g} in {deciding.label}"
    return f"{spec.gates.max_accuracy_drop_points} points"


def _variant_asset(
    spec: ModelSpec,
    family: Family,
    partitions: dg.PartitionsDefinition,
    variant: Variant,
) -> dg.AssetsDefinition:
    checks = {
        "parity": "Outputs against PyTorch eager, in batches of 1, 2 and 5",
        "accuracy": f"Drop of at most {_largest_drop(spec)} on the whole evaluation set",
        "size": "Artifact size within the tighter of the model's and the target's budget",
    }
    if not variant.is_model:
        checks = {"built": "Made without a failure; refused or unavailable is a warning"}

    @dg.asset(
        **_common(spec, family, partitions, variant.name),
        ins={"source": dg.AssetIn(key=asset_key(spec, family, variant.source)), **_ins(spec, family, variant.others)},
        description=variant.description,
        metadata=code.calls(variant.build),
        kinds=set(variant.kinds),
        code_version=variant.code_version,
        check_specs=check_specs(asset_key(spec, family, variant.name), partitions, checks),
    )
    @inspected_once
    def build(  # type: ignore[no-untyped-def]  # with checks, Dagster reads a result annotation as "has no value"
        context: dg.AssetExecutionContext,
        source: Built,
        store: ArtifactStoreResource,
        tracking: MLflowTracking,
        **others: Built,
    ):
        with clear_errors(context):
            cell = open_cell(context, spec, family, store)
            built = cell.variants.build(variant, source, others)
            urls = tracking.log([entries.variant_entry(cell, built, variant, context.run_id)], context.log.warning)
        return dg.MaterializeResult(
            value=built,
            metadata=metadata.variant(cell, built, urls),
            data_version=dg.DataVersion(built.data_version),
            check_results=metadata.variant_checks(cell, built, list(checks)),
        )

    definition: dg.AssetsDefinition = build
    return definition


def _report_asset(
    spec: ModelSpec,
    family: Family,
    partitions: dg.PartitionsDefinition,
) -> dg.AssetsDefinition:
    sources = [CHECKPOINT, *(variant.name for variant in family.variants)]
    checks = {"memory": "Peak resident memory of every variant within the tighter of the two budgets"}

    @dg.asset(
        **_common(spec, family, partitions, REPORT),
        ins=_ins(spec, family, sources),
        description="Latency, throughput, load time and peak memory of every variant, interleaved in child processes; "
        "timed only where this machine is the target.",
        metadata=code.calls(Measurement.of, Judgement.report),
        kinds={"pandas"},
        code_version=GRAPH_VERSION,
        check_specs=check_specs(asset_key(spec, family, REPORT), partitions, checks),
    )
    @inspected_once
    def benchmark_report(  # type: ignore[no-untyped-def]  # as above
        context: dg.AssetExecutionContext,
        config: BenchmarkConfig,
        store: ArtifactStoreResource,
        tracking: MLflowTracking,
        **builts: Built,
    ):
        with clear_errors(context):
            cell = open_cell(context, spec, family, store)
            ordered = cell.observe({name: builts[name] for name in sources})
            judgement = Judgement(cell, ordered, cell.measure(ordered, config.mode))
            report = judgement.report()
            urls = tracking.log(entries.report_entries(judgement, report, context.run_id), context.log.warning)
        return dg.MaterializeResult(
            value=Report(tuple(ordered.values()), judgement.measurement),
            metadata=metadata.report(judgement, report, urls),
            data_version=dg.DataVersion(digest([judgement.measurement.sha256, report.sha256])),
            check_results=[metadata.memory_check(judgement)],
        )

    definition: dg.AssetsDefinition = benchmark_report
    return definition


def _release_asset(
    spec: ModelSpec,
    family: Family,
    partitions: dg.PartitionsDefinition,
    targets: list[Target],
) -> dg.AssetsDefinition:
    @dg.asset(
        **_common(spec, family, partitions, RELEASE),
        ins=_ins(spec, family, [REPORT]),
        description="Exactly one winner: gates on parity, accuracy, size and memory, then latency where it was "
        "measured on the target, else size. Fails if nothing passes.",
        metadata=code.calls(Judgement.release, judge),
        kinds={"mlflow"},
        code_version=GRAPH_VERSION,
        check_specs=[freshness.check_spec(asset_key(spec, family, RELEASE))],
    )
    @inspected_once
    def release(  # type: ignore[no-untyped-def]  # as above
        context: dg.AssetExecutionContext,
        benchmark_report: Report,
        store: ArtifactStoreResource,
        tracking: MLflowTracking,
    ):
        with clear_errors(context):
            cell = open_cell(context, spec, family, store)
            judgement = Judgement(cell, benchmark_report.by_name, benchmark_report.measurement)
            rows.write(cell.store, cell.path, judgement.rows)
            released = judgement.release()
            assert released.artifact is not None
            folder = home().releases / spec.name / cell.target.name / cell.checkpoint.key
            cell.store.export(released.artifact, folder)
            card = (folder / "MODEL_CARD.md").read_text()
            urls = tracking.log(entries.release_entries(judgement, released, card, context.run_id), context.log.warning)
            is_newest, sentence = freshness.is_newest_released(spec, family, targets, cell.store, cell.partition)
        return dg.MaterializeResult(
            value=released,
            metadata=metadata.release(judgement, released, folder, urls),
            data_version=dg.DataVersion(released.sha256),
            check_results=[freshness.checked(is_newest, sentence)],
        )

    definition: dg.AssetsDefinition = release
    return definition
