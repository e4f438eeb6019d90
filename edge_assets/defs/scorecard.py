"""The scorecard asset: one page per checkpoint across all families and targets."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import dagster as dg

from edge_assets.core.evidence import Row
from edge_assets.core.shapes import record
from edge_assets.core.types import Recipe, Result
from edge_assets.defs import code, tables
from edge_assets.defs.assets import asset_key, checkpoint_partitions, clear_errors
from edge_assets.errors import EdgeAssetsError
from edge_assets.families.families import family_targets
from edge_assets.hashing import digest
from edge_assets.pipeline import rows as kept
from edge_assets.pipeline.cell import RELEASE
from edge_assets.settings import home
from edge_assets.spec.model import ModelSpec
from resources.artifacts import ArtifactStoreResource
from resources.outbox import PARENT, Entry
from resources.store import ArtifactStore
from resources.tracking import MLflowTracking, dagster_tags

SCORECARD = "scorecard"
PAGE = "scorecard.html"


def scorecard_asset(spec: ModelSpec) -> dg.AssetsDefinition:
    """The scorecard of one model, partitioned by checkpoint alone."""
    releases = [asset_key(spec, family, RELEASE) for family, _targets in family_targets(spec)]

    @dg.asset(
        key=dg.AssetKey([spec.name, SCORECARD]),
        partitions_def=checkpoint_partitions(spec),
        deps=[dg.AssetDep(key) for key in releases],
        group_name=spec.name,
        owners=list(spec.owners),
        tags={"edge_assets/model": spec.name},
        metadata=code.calls(_page),
        kinds={"pandas"},
        description="Who won on each target and why, with every variant's numbers and where they were measured.",
        code_version="1",
        # rebuilt whenever a release of its checkpoint was, once none of them is still being built
        automation_condition=dg.AutomationCondition.any_deps_updated()
        & ~dg.AutomationCondition.any_deps_in_progress()
        & ~dg.AutomationCondition.in_progress(),
    )
    def scorecard(
        context: dg.AssetExecutionContext, store: ArtifactStoreResource, tracking: MLflowTracking
    ) -> dg.MaterializeResult:
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
            entry = _entry(spec, checkpoint, rows, built, context.run_id)
            url = tracking.log([entry], context.log.warning)[PARENT]
        in_mlflow: dg.MetadataValue | str = url
        if url.startswith("http"):
            in_mlflow = dg.MetadataValue.url(f"{url}/artifacts/{entry.kind}/{PAGE}")
        return dg.MaterializeResult(
            metadata={
                "released": tables.released(rows),
                "variants": tables.variants_by_target(rows),
                "targets": len({row.target for row in rows}),
                "targets_released": len(_released(rows)),
                "page": dg.MetadataValue.path(folder / PAGE),
                "page_in_mlflow": in_mlflow,
            },
            data_version=dg.DataVersion(_digest(rows)),
        )

    return scorecard


def _page(store: ArtifactStore, spec: ModelSpec, checkpoint: str, rows: Sequence[Row]) -> Result:
    def build(folder: Path) -> dict[str, object]:
        from edge_assets.report import page

        page.write(folder / PAGE, spec, checkpoint, rows)
        return {"targets": len({row.target for row in rows})}

    about = {"model": spec.name, "checkpoint": checkpoint, "description": spec.description}
    return store.remember(Recipe("scorecard", "1", {"rows": _digest(rows)}, about), build)


def _entry(spec: ModelSpec, checkpoint: str, rows: Sequence[Row], page: Result, run_id: str) -> Entry:
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
