"""Whether the releases of a family are of the newest checkpoint, as a check that turns when one arrives.

A freshness policy of Dagster's counts the time since an asset was last materialized. A release does not age: it is as
good as on its first day, until a newer checkpoint is there. So the checkpoint sensor, which sees a checkpoint arrive,
evaluates this check without a run, and each release evaluates it again.
"""

import dagster as dg

from edge_assets.families.family import Family
from edge_assets.pipeline.identity import RELEASE
from edge_assets.spec.architecture import fitting_digest
from edge_assets.spec.model import ModelSpec
from edge_assets.targets import Target
from resources import checkpoints
from resources.pointers import pointed_result, pointer_key
from resources.store import ArtifactStore

CHECK = "newest_checkpoint"


def check_spec(release: dg.AssetKey) -> dg.AssetCheckSpec:
    """The check of one family's releases. It is not partitioned: what it says is of all targets, and of now."""
    return dg.AssetCheckSpec(
        CHECK,
        asset=release,
        description="The newest checkpoint is released for every target; a warning as long as it is not",
    )


def is_newest_released(
    spec: ModelSpec,
    family: Family,
    targets: list[Target],
    store: ArtifactStore,
    just_released: str | None = None,
) -> tuple[bool, str]:
    """Whether the newest checkpoint is released for every target, and the sentence that says so.

    `just_released` is the partition whose release is done and not yet handed on.
    """
    newest = checkpoints.newest(store, spec.name, fitting_digest(spec))
    if newest is None:
        return True, "no checkpoint that fits the architecture is registered"
    missing = []
    for target in targets:
        partition = f"{newest.key}|{target.name}"
        key = pointer_key((spec.name, family.name, RELEASE), partition)
        if partition != just_released and pointed_result(store, key) is None:
            missing.append(target.name)
    if not missing:
        return True, f"{newest.key}, the newest checkpoint, is released for every target"
    return False, f"{newest.key}, the newest checkpoint, is not released yet for {', '.join(missing)}"


def checked(passed: bool, sentence: str) -> dg.AssetCheckResult:
    """What a release says of it."""
    return dg.AssetCheckResult(
        check_name=CHECK,
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        description=sentence,
    )


def evaluation(release: dg.AssetKey, passed: bool, sentence: str) -> dg.AssetCheckEvaluation:
    """The same outside of a run."""
    return dg.AssetCheckEvaluation(
        asset_key=release,
        check_name=CHECK,
        passed=passed,
        metadata={},
        severity=dg.AssetCheckSeverity.WARN,
        description=sentence,
    )
