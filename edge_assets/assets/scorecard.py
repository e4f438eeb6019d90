"""The scorecard asset: one page per checkpoint across all families and targets."""

from typing import Any

import dagster as dg

from edge_assets.assets.families import family_targets
from edge_assets.assets.graph import RELEASE, asset_key, checkpoint_partitions, clear_errors
from edge_assets.core.errors import EdgeAssetsError
from edge_assets.core.types import digest
from edge_assets.model import ModelSpec
from edge_assets.settings import home
from resources.artifacts import ArtifactStoreResource

SCORECARD = "scorecard"


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
        kinds={"pandas"},
        description="Who won on each target and why, with every variant's numbers and where they were measured.",
        code_version="1",
        # rebuilt whenever a release of its checkpoint was, once none of them is still being built
        automation_condition=dg.AutomationCondition.any_deps_updated()
        & ~dg.AutomationCondition.any_deps_in_progress()
        & ~dg.AutomationCondition.in_progress(),
    )
    def scorecard(context: dg.AssetExecutionContext, store: ArtifactStoreResource) -> dg.MaterializeResult:
        from edge_assets import scorecard as table
        from edge_assets.report import page, tables

        with clear_errors():
            rows = table.rows(store.open(), spec, context.partition_key)
            if not rows:
                raise EdgeAssetsError(f"no target of {spec.name} was judged for {context.partition_key} yet")
            path = home().root / "scorecards" / spec.name / f"{context.partition_key}.html"
            page.write(path, spec, context.partition_key, rows)
        released: dict[str, Any] = {r["target"]: r["artifact"] for r in rows if r["verdict"] == "released"}
        return dg.MaterializeResult(
            metadata={
                "released": dg.MetadataValue.json(released),
                "table": dg.MetadataValue.md(tables.markdown(rows)),
                "page": dg.MetadataValue.path(path),
            },
            data_version=dg.DataVersion(digest([{**row, "reused": None} for row in rows])),
        )

    return scorecard
