"""Mixed precision: int8 with the fewest layers kept in fp32 that bring the drop under the gate.

onnx_int8_mixed  layers are kept along the ranking of onnx_sensitivity until the candidate meets the gate on half of the
                 evaluation set; then each kept layer is quantized again if the gate still holds without it
"""

import json
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_assets.core.trials import Trial, Trials
from edge_assets.core.variant import BuildRequest
from edge_assets.errors import Refused
from edge_assets.spec.model import Search
from edge_assets.toolchains.onnx import export as onnx_format
from edge_assets.toolchains.onnx.search import schemes as partial
from edge_assets.toolchains.onnx.search import sensitivity
from edge_assets.toolchains.onnx.search.schemes import Scheme

if TYPE_CHECKING:
    from edge_assets.spec.model import ModelSpec
    from edge_assets.targets import Target


@dataclass
class TrialBudget:
    """Trials under a budget, with their log. What the store knew already costs nothing."""

    trials: Trials
    bounds: Search
    say: Callable[[str], None]
    log: list[dict[str, Any]] = field(default_factory=list)
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
        meets = trial.meets(self.trials.limits)
        cosine = "" if trial.cosine_mean is None else f", mean cosine {trial.cosine_mean:.4f}"
        self.say(
            f"{scheme.recipe}, {len(kept)} of {len(scheme.layers)} layers kept: {trial.size_bytes / 1024:,.0f} KiB, "
            f"drop {trial.drop_points:.2f} points{cosine}{'' if meets else ', over the gate'}"
        )
        self.log.append(
            {
                "recipe": scheme.recipe,
                "kept": names,
                "size_bytes": trial.size_bytes,
                "drop_points": trial.drop_points,
                "drop_interval_points": [round(bound, 3) for bound in trial.drop_interval_points],
                "cosine_mean": trial.cosine_mean,
                "snr_db": trial.snr_db,
                "missed_by": trial.missed_by(self.trials.limits),
                "seconds": trial.seconds,
                "reused": trial.reused,
            }
        )
        return trial


def _doubling(count: int) -> list[int]:
    """0, 1, 2, 4, ... below `count`, and last the largest number below it."""
    steps, step = [0], 1
    while step < count - 1:
        steps.append(step)
        step *= 2
    return steps if count <= 1 else [*steps, count - 1]


def fewest_kept(scheme: Scheme, order: Sequence[str], budget: TrialBudget) -> tuple[list[str], Trial] | None:
    """The fewest layers, along `order`, that must be kept for the candidate to meet the gate, and that candidate.

    None if no candidate met it before the budget was spent or one layer was left. The drop is taken to shrink as layers
    are added: doubling, then bisection finds the shortest prefix, and what it holds in vain is taken out.
    """
    limits = budget.trials.limits
    low = -1
    for high in _doubling(len(order)):
        if budget.spent():
            return None
        trial = budget.judge(scheme, order[:high])
        if trial.meets(limits):
            break
        low = high
    else:
        return None
    best = (list(order[:high]), trial)
    while high - low > 1 and not budget.spent():
        middle = (low + high) // 2
        trial = budget.judge(scheme, order[:middle])
        if trial.meets(limits):
            high, best = middle, (list(order[:middle]), trial)
        else:
            low = middle
    for name in reversed(best[0][:-1]):  # without the last one the prefix is known to fail
        if budget.spent():
            break
        fewer = [kept for kept in best[0] if kept != name]
        trial = budget.judge(scheme, fewer)
        if trial.meets(limits):
            best = (fewer, trial)
    return best


def closest(log: Sequence[Mapping[str, Any]]) -> str:
    """What came nearest to the gate, for the sentence that says that nothing met it."""
    best = min(log, key=lambda entry: entry["missed_by"])
    cosine = "" if best["cosine_mean"] is None else f", mean cosine {best['cosine_mean']:.4f}"
    return (
        f"{best['recipe']} with {len(best['kept'])} layers kept came closest: "
        f"drop {best['drop_points']:.2f} points{cosine}"
    )


def describe_limits(trials: Trials) -> str:
    """The gate in words."""
    cosine = "" if trials.limits.cosine is None else f" and a mean cosine of {trials.limits.cosine:g}"
    return f"the gate of {trials.limits.accuracy_drop_points:.2f} points{cosine}"


def build(request: BuildRequest) -> Mapping[str, Any]:
    """Search and write. Raises Refused where no layer has to be kept, or where keeping any number does not help."""
    assert request.trials is not None
    if (ranking := request.others.get(sensitivity.VARIANT.name)) is None:
        raise Refused(f"there is no {sensitivity.VARIANT.name} to keep layers by")
    ranked = json.loads((ranking / sensitivity.FILE).read_text())["layers"]
    budget = TrialBudget(request.trials, Search(**request.parameters["bounds"]), request.log)
    path = request.output / onnx_format.FILE
    with tempfile.TemporaryDirectory() as scratch:
        scheme = partial.int8(request, Path(scratch))
        found = fewest_kept(scheme, [entry["layer"] for entry in ranked], budget)
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
    return onnx_format.describe(path) | {
        "recipe": scheme.recipe_keeping(len(kept)),
        "kept_layers": kept,
        "quantized_layers": len(scheme.layers) - len(kept),
        "searched_on_samples": request.trials.half,
        "trials": budget.log,
    }


def parameters(spec: "ModelSpec", target: "Target") -> dict[str, Any]:
    """The scheme's parameters and the bounds of the search."""
    return partial.int8_parameters(spec, target) | bounds(spec)


def bounds(spec: "ModelSpec") -> dict[str, Any]:
    """The spec's bounds of a search, or the usual ones."""
    from dataclasses import asdict

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
