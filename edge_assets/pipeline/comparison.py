"""Two checkpoints of one model, compared by what was kept of both: nothing is built for it."""

from edge_assets.core.evidence import Accuracy
from edge_assets.core.metrics.registry import measure_of
from edge_assets.core.verify import accuracy
from edge_assets.families.families import family_targets
from edge_assets.pipeline import rows
from edge_assets.pipeline.cell import Cell
from edge_assets.pipeline.identity import max_drop_points, own_name
from edge_assets.report.comparison import Comparison, compare, regressions
from edge_assets.spec.model import ModelSpec
from resources.checkpoints import Checkpoint
from resources.store import ArtifactStore, NotBuilt


def between(store: ArtifactStore, spec: ModelSpec, before: Checkpoint, after: Checkpoint) -> Comparison:
    """Compare what ships of two checkpoints. Raises EdgeAssetsError if either was not built yet."""
    old, new = (rows.demanded(store, spec, checkpoint.key) for checkpoint in (before, after))
    fp32 = _fp32(store, spec, before, after)
    deciding = spec.evaluation.deciding
    changes = compare(old, new, fp32, bool(deciding.higher_is_better))
    return Comparison(
        before=before.key,
        after=after.key,
        metric=own_name(deciding) or "accuracy",
        is_share=deciding.is_share,
        fp32=fp32,
        changes=changes,
        regressions=regressions(changes, max_drop_points(spec)),
    )


def _fp32(store: ArtifactStore, spec: ModelSpec, before: Checkpoint, after: Checkpoint) -> Accuracy | None:
    """PyTorch eager's scores of the newer checkpoint against the older one's, sample by sample.

    None if either was judged on other evaluation data than the spec has now.
    """
    family, targets = next(family_targets(spec))
    statistics = []
    for checkpoint in (before, after):
        cell = Cell(spec, family, targets[0], checkpoint, store).planning()
        try:
            statistics.append(cell.reference.statistics())
        except NotBuilt:
            return None
    metric = spec.evaluation.deciding
    assert metric.higher_is_better is not None
    return accuracy.against(measure_of(metric), statistics[1], statistics[0], metric.higher_is_better)
