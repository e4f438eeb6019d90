"""Mixed precision: int8 with the fewest layers kept in fp32 that bring the drop under the gate.

onnx_int8_mixed  layers are kept along the ranking of onnx_sensitivity until the candidate meets the gate on half of the
                 evaluation set; then each kept layer is quantized again if the gate still holds without it
"""

import json
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edge_assets.core.trials import Trial, Trials
from edge_assets.core.variant import BuildRequest
from edge_assets.errors import Refused
from edge_assets.hashing import Json
from edge_assets.spec.model import Search
from edge_assets.toolchains.onnx import export as onnx_format
from edge_assets.toolchains.onnx.search import schemes as search_schemes
from edge_assets.toolchains.onnx.search import sensitivity
from edge_assets.toolchains.onnx.search.schemes import Scheme

if TYPE_CHECKING:
    from edge_assets.spec.model import ModelSpec
    from edge_assets.targets import Target


@dataclass(frozen=True)
class LoggedTrial:
    """What a search's log says of one candidate."""

    recipe: str
    kept: list[str]  # layers in high precision
    size_bytes: int
    drop_points: float
    drop_interval_points: list[float]  # as JSON has it
    cosine_mean: float | None
    snr_db: float | None
    missed_by: float  # 0 where it meets the gate
    seconds: float
    reused: bool


class Kept(NamedTuple):
    """A candidate that meets the gate: the layers that it keeps, and what is known of it."""

    layers: list[str]
    trial: Trial


@dataclass
class TrialBudget:
    """Trials under a budget, with their log. What the store knew already costs nothing."""

    trials: Trials
    bounds: Search
    say: Callable[[str], None]
    log: list[LoggedTrial] = field(default_factory=list)
    made: int = 0
    started: float = field(default_factory=time.monotonic)

    def spent(self) -> str | None:
        """Which bound is reached, or None."""
        if self.made >= self.bounds.max_trials:
            return f"{self.bounds.max_trials} trials"
        if time.monotonic() - self.started >= self.bounds.max_seconds:
            return f"{self.bounds.max_seconds:.0f} seconds"
        return None

    def judge(self, scheme: Scheme, kept: Collection[str]) -> Trial:
        """The scheme with those layers left alone. Raises Refused if that graph cannot be made."""
        names = sorted(kept)
        parameters = {**scheme.parameters, "kept": names}
        trial = self.trials.run(parameters, lambda path: scheme.write_keeping(kept, path))
        self.made += not trial.reused
        over = "" if trial.meets(self.trials.limits) else ", over the gate"
        self.say(
            f"{scheme.recipe}, {len(kept)} of {len(scheme.layers)} layers kept: {trial.size_bytes / 1024:,.0f} KiB, "
            f"drop {trial.drop_points:.2f} points{_with_cosine(trial.cosine_mean)}{over}"
        )
        logged = LoggedTrial(
            recipe=scheme.recipe,
            kept=names,
            size_bytes=trial.size_bytes,
            drop_points=trial.drop_points,
            drop_interval_points=[round(bound, 3) for bound in trial.drop_interval_points],
            cosine_mean=trial.cosine_mean,
            snr_db=trial.snr_db,
            missed_by=trial.missed_by(self.trials.limits),
            seconds=trial.seconds,
            reused=trial.reused,
        )
        self.log.append(logged)
        return trial

    def log_as_json(self) -> list[dict[str, Json]]:
        """The log as facts hold it."""
        return [asdict(entry) for entry in self.log]


def _with_cosine(cosine: float | None) -> str:
    return "" if cosine is None else f", mean cosine {cosine:.4f}"


# --- which layers to keep ------------------------------------------------------------------------------


def fewest_kept(scheme: Scheme, order: Sequence[str], budget: TrialBudget) -> Kept | None:
    """The fewest layers, along `order`, that must be kept for the candidate to meet the gate, and that candidate.

    None if no candidate met it before the budget was spent or one layer was left. The drop is taken to shrink as layers
    are added: doubling, then bisection finds the shortest prefix, and what it holds in vain is taken out.
    """
    too_few = -1  # the longest prefix that is known to miss the gate
    best = None
    for length in _doubling(len(order)):
        if budget.spent():
            return None
        best = _meeting(scheme, order[:length], budget)
        if best is not None:
            break
        too_few = length
    if best is None:
        return None
    best = _shortest_prefix(scheme, order, too_few, best, budget)
    return _without_needless(scheme, best, budget)


def _doubling(count: int) -> list[int]:
    """0, 1, 2, 4, ... below `count`, and last the largest number below it."""
    if count <= 1:
        return [0]
    steps, step = [0], 1
    while step < count - 1:
        steps.append(step)
        step *= 2
    steps.append(count - 1)
    return steps


def _shortest_prefix(
    scheme: Scheme,
    order: Sequence[str],
    too_few: int,
    best: Kept,
    budget: TrialBudget,
) -> Kept:
    """The shortest prefix of `order` that meets the gate: longer than `too_few`, at most as long as `best`."""
    while len(best.layers) - too_few > 1 and not budget.spent():
        middle = (too_few + len(best.layers)) // 2
        shorter = _meeting(scheme, order[:middle], budget)
        if shorter is None:
            too_few = middle
        else:
            best = shorter
    return best


def _without_needless(scheme: Scheme, prefix: Kept, budget: TrialBudget) -> Kept:
    """Layers taken out one by one, as long as the gate holds; the last is needed, or a shorter prefix would do."""
    best = prefix
    for name in reversed(prefix.layers[:-1]):
        if budget.spent():
            break
        fewer = _meeting(scheme, [kept for kept in best.layers if kept != name], budget)
        if fewer is not None:
            best = fewer
    return best


def _meeting(scheme: Scheme, layers: Sequence[str], budget: TrialBudget) -> Kept | None:
    """The candidate that keeps those layers, or None if it misses the gate."""
    trial = budget.judge(scheme, layers)
    return Kept(list(layers), trial) if trial.meets(budget.trials.limits) else None


# --- in words ------------------------------------------------------------------------------------------


def closest(log: Sequence[LoggedTrial]) -> str:
    """What came nearest to the gate, for the sentence that says that nothing met it."""
    best = min(log, key=lambda entry: entry.missed_by)
    return (
        f"{best.recipe} with {len(best.kept)} layers kept came closest: "
        f"drop {best.drop_points:.2f} points{_with_cosine(best.cosine_mean)}"
    )


def describe_limits(trials: Trials) -> str:
    """The gate in words."""
    cosine = "" if trials.limits.cosine is None else f" and a mean cosine of {trials.limits.cosine:g}"
    return f"the gate of {trials.limits.accuracy_drop_points:.2f} points{cosine}"


# --- the variant ---------------------------------------------------------------------------------------


def build(request: BuildRequest) -> Mapping[str, Any]:
    """Search and write. Raises Refused where no layer has to be kept, or where keeping any number does not help."""
    assert request.trials is not None
    ranking = request.others.get(sensitivity.VARIANT.name)
    if ranking is None:
        raise Refused(f"there is no {sensitivity.VARIANT.name} to keep layers by")
    ranked = json.loads((ranking / sensitivity.FILE).read_text())["layers"]
    order = [entry["layer"] for entry in ranked]
    budget = TrialBudget(request.trials, Search(**request.parameters["bounds"]), request.log)
    path = request.output / onnx_format.FILE
    with tempfile.TemporaryDirectory() as scratch:
        scheme = search_schemes.int8(request, Path(scratch))
        found = fewest_kept(scheme, order, budget)
        if found is None:
            raise Refused(
                f"no number of layers kept in {scheme.kept_in} brings {scheme.recipe} under "
                f"{describe_limits(request.trials)} (stopped by {budget.spent() or 'the last layer'}): "
                f"{closest(budget.log)}"
            )
        kept, trial = found
        if not kept:
            raise Refused(
                f"no layer has to be kept: {scheme.recipe} drops {trial.drop_points:.2f} points with all of them "
                f"quantized, under {describe_limits(request.trials)}. Use {scheme.variant}."
            )
        scheme.write_keeping(kept, path)
    return onnx_format.finish(path, request.source) | {
        "recipe": scheme.recipe_keeping(len(kept)),
        "kept_layers": kept,
        "quantized_layers": len(scheme.layers) - len(kept),
        "searched_on_samples": request.trials.half,
        "trials": budget.log_as_json(),
    }


def parameters(spec: "ModelSpec", target: "Target") -> dict[str, Json]:
    """The scheme's parameters and the bounds of the search."""
    return search_schemes.int8_parameters(spec, target) | bounds(spec)


def bounds(spec: "ModelSpec") -> dict[str, Json]:
    """The spec's bounds of a search, or the usual ones."""
    return {"bounds": asdict(spec.search or Search())}


VARIANT = replace(
    onnx_format.FROM_MODEL,
    name="onnx_int8_mixed",
    description="Int8 with the fewest sensitive layers kept in fp32 that bring the drop under the gate.",
    precision="int8",
    build=build,
    parameters=parameters,
    others=(sensitivity.VARIANT.name,),
    needs=frozenset({"calibration", "search"}),
    offered=sensitivity.VARIANT.offered,
)
