"""One job per model and family: the whole family graph for one checkpoint on one target."""

from typing import TYPE_CHECKING

import dagster as dg
from dagster import AssetSelection

from edge_assets.defs.assets import checkpoint_partitions, family_partitions
from edge_assets.defs.scorecard import SCORECARD
from edge_assets.families.family import Family
from edge_assets.spec.model import ModelSpec
from edge_assets.targets import Target

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition


def family_job_name(spec: ModelSpec, family: Family) -> str:
    """For example digits_cpu."""
    return f"{spec.name}_{family.name}"


def family_job(
    spec: ModelSpec,
    family: Family,
    targets: list[Target],
) -> "UnresolvedAssetJobDefinition":
    """Everything of one family, from checkpoint to release."""
    return dg.define_asset_job(
        family_job_name(spec, family),
        selection=AssetSelection.groups(f"{spec.name}_{family.name}"),
        partitions_def=family_partitions(spec, targets),
        description=f"{spec.name} for {family.description}: from checkpoint to release, one target per run",
    )


def scorecard_job_name(spec: ModelSpec) -> str:
    """For example digits_scorecard."""
    return f"{spec.name}_{SCORECARD}"


def scorecard_job(spec: ModelSpec) -> "UnresolvedAssetJobDefinition":
    """The scorecard of one checkpoint."""
    return dg.define_asset_job(
        scorecard_job_name(spec),
        selection=AssetSelection.keys(dg.AssetKey([spec.name, SCORECARD])),
        partitions_def=checkpoint_partitions(spec),
        description=f"{spec.name}: every target of one checkpoint on one page",
    )
