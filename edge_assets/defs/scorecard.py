"""The scorecard asset: one page per checkpoint across all families and targets."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import dagster as dg

from edge_assets.core.evidence import Row
from edge_assets.core.shapes import record
from edge_assets.core.types import Recipe, Result
from edge_assets.defs import code, metadata, tables
from edge_assets.defs.assets import asset_key, check_specs, checkpoint_partitions, clear_errors
from edge_assets.errors import EdgeAssetsError
from edge_assets.families.families import family_targets
from edge_assets.hashing import digest
from edge_assets.pipeline import rows as kept
from edge_assets.pipeline.cell import RELEASE
from edge_assets.pipeline.comparison import between
from edge_assets.settings import home
from edge_assets.spec.model import ModelSpec
from resources import checkpoints
from resources.artifacts import ArtifactStoreResource
from resources.outbox import PARENT, Entry
from resources.store import ArtifactStore
from resources.tracking import VARIANTS, MLflowTracking, dagster_tags

SCORECARD = "scorecard"
PAGE = "scorecard.html"
REGRESSION = "regression"
REGRESSION_IS = "No target lost its release, or more accuracy than its gate allows, against the checkpoint before"


def scorecard_asset(spec: ModelSpec) -> dg.AssetsDefinition:
    """The scorecard of one model, partitioned by checkpoint alone."""
    releases = [asset_key(spec, family, RELEASE) for family, _targets in family_targets(spec)]

    key, partitions = dg.AssetKey([spec.name, SCORECARD]), checkpoint_partitions(spec)

    @dg.asset(
        key=key,
        partitions_def=partitions,
        deps=[dg.AssetDep(key) for key in releases],
        group_name=spec.name,
        owners=list(spec.owners),
        tags={"edge_assets/model": spec.name},
        metadata=code.calls(_page),
        kinds={"pandas"},
        description="Who won on each target and why, with every variant's numbers and where they were measured.",
        code_version="2",
        check_specs=check_specs(key, partitions, {REGRESSION: REGRESSION_IS}),
        # rebuilt whenever a release of its checkpoint was, once none of them is still being built
        automation_condition=dg.AutomationCondition.any_deps_updated()
        & ~dg.AutomationCondition.any_deps_in_progress()
        & ~dg.AutomationCondition.in_progress(),
    )
    def scorecard(  # type: ignore[no-untyped-def]  # with checks, Dagster reads a result annotation as "has no value"
        context: dg.AssetExecutionContext,
        store: ArtifactStoreResource,
        tracking: MLflowTracking,
    ):
        checkpoint = context.partition_key
        with clear_errors(context):
            opened = store.open()
            rows = kept.of_checkpoint(opened, spec, checkpoint)
            if not rows:
                raise EdgeAssetsError(f"no target of {spec.name} was judged for {checkpoint} yet")
            built = _page(opened, spec, checkpoint, rows)
            assert built.artifact is not None
            folder = home().root / "scorecards" / spec.name / checkpoint
            opened.export(built.artifact, folder)
            regression = _regression(opened, spec, checkpoint)
            entry = _entry(spec, checkpoint, rows, built, context.run_id)
            urls = tracking.log([entry], context.log.warning)
        return dg.MaterializeResult(
            metadata={
                "released": tables.released(rows),
                "reasons": tables.reasons(rows),
                "variants": tables.variants_by_target(rows),
                "targets": len({row.target for row in rows}),
                "targets_released": len(_released(rows)),
                "page": dg.MetadataValue.path(folder / PAGE),
                "page_in_mlflow": _page_in_mlflow(urls[PARENT], entry),
                "mlflow_variants": metadata.link(urls[VARIANTS]),
            },
            data_version=dg.DataVersion(_digest(rows)),
            check_results=[regression],
        )

    return scorecard


def _page_in_mlflow(url: str, entry: Entry) -> dg.MetadataValue | str:
    """Where the run at that URL shows the page; of an MLflow without a server, the run alone."""
    if not url.startswith("http"):
        return url
    run, _mark, query = url.partition("?")
    return dg.MetadataValue.url(f"{run}/artifacts/{entry.kind}/{PAGE}?{query}")


def _regression(store: ArtifactStore, spec: ModelSpec, checkpoint: str) -> dg.AssetCheckResult:
    """Whether any target lost more than its gate against the checkpoint before, with a page of both side by side."""
    from edge_assets.report import page

    earlier = next(kept.judged(store, spec, before=checkpoint), None)
    if earlier is None:
        return dg.AssetCheckResult(
            passed=True,
            check_name=REGRESSION,
            description="no earlier checkpoint was built",
        )
    found = between(store, spec, earlier, checkpoints.lookup(store, spec.name, checkpoint))
    side_by_side = home().comparison(spec.name, earlier.key, checkpoint)
    page.write_comparison(side_by_side, spec, found)
    return dg.AssetCheckResult(
        passed=not found.regressions,
        check_name=REGRESSION,
        description="; ".join(found.regressions) or f"none against {earlier.key}",
        metadata={"against": earlier.key, "page": dg.MetadataValue.path(side_by_side)},
    )


def _page(store: ArtifactStore, spec: ModelSpec, checkpoint: str, rows: Sequence[Row]) -> Result:
    def build(folder: Path) -> dict[str, object]:
        from edge_assets.report import page

        page.write(folder / PAGE, spec, checkpoint, rows)
        return {"targets": len({row.target for row in rows})}

    about = {"model": spec.name, "checkpoint": checkpoint, "description": spec.description}
    return store.remember(Recipe("scorecard", "3", {"rows": _digest(rows)}, about), build)


def _entry(
    spec: ModelSpec,
    checkpoint: str,
    rows: Sequence[Row],
    page: Result,
    run_id: str,
) -> Entry:
    """The checkpoint's own MLflow run, with the page and how many targets have a release."""
    released = _released(rows)
    targets = len({row.target for row in rows})
    tags = {f"released.{target}": artifact for target, artifact in released.items()}
    return Entry(
        cell=f"{spec.name}/all/{checkpoint}/{SCORECARD}",
        run=PARENT,
        kind=SCORECARD,
        metrics={"targets": targets, "targets_released": len(released)},
        tags=tags | dagster_tags(run_id),
        artifact=asdict(page.artifact) if page.artifact else None,
    )


def _released(rows: Sequence[Row]) -> dict[str, str]:
    return {row.target: row.artifact for row in rows if row.verdict == "released"}


def _digest(rows: Sequence[Row]) -> str:
    return digest([record(row) | {"reused": None} for row in rows])
