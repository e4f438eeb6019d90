"""Accuracy-bounded search: of every scheme that suits the graph, the smallest or fastest candidate under the gate.

onnx_search    the log of every candidate that was tried, its plot, and the graph that was chosen
onnx_searched  that graph, a candidate for release like any other

Every scheme is tried with all layers quantized; from the smallest to the largest, one that misses the gate is relaxed
by keeping layers in fp32 along its own sensitivity ranking, as long as it could still beat what was found. Trials are
kept in the store, so a search that was stopped goes on where it was, and a raised budget repeats nothing.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_assets.core.trials import Trial
from edge_assets.core.variant import BuildRequest
from edge_assets.errors import Refused
from edge_assets.hashing import Json
from edge_assets.spec.model import Search
from edge_assets.toolchains.onnx import export as onnx_format
from edge_assets.toolchains.onnx.search import mixed, sensitivity
from edge_assets.toolchains.onnx.search import schemes as search_schemes
from edge_assets.toolchains.onnx.search.mixed import TrialBudget
from edge_assets.toolchains.onnx.search.schemes import Scheme

if TYPE_CHECKING:
    from edge_assets.spec.model import ModelSpec
    from edge_assets.targets import Target

LOG, PLOT = "search.json", "search.png"


@dataclass(frozen=True)
class Candidate:
    """A scheme with the layers that it keeps, and how it was judged."""

    scheme: Scheme
    kept: tuple[str, ...]
    trial: Trial

    @property
    def recipe(self) -> str:
        return self.scheme.recipe_keeping(len(self.kept))

    def write(self, path: Path) -> None:
        """Make the candidate's graph again."""
        self.scheme.write_keeping(self.kept, path)


def build(request: BuildRequest) -> Mapping[str, Any]:
    """Search, and write what was found. Raises Refused, naming what came closest, if nothing meets the gate."""
    assert request.trials is not None
    budget = TrialBudget(request.trials, Search(**request.parameters["bounds"]), request.log)
    with tempfile.TemporaryDirectory() as scratch:
        schemes = search_schemes.every(request, Path(scratch))
        found = search(schemes, budget)
        stopped = budget.spent()
        if not found:
            raise Refused(
                f"no candidate of {len(schemes)} schemes meets {mixed.describe_limits(request.trials)} after "
                f"{len(budget.log)} trials (stopped by {stopped or 'the last candidate'}): "
                f"{mixed.closest(budget.log)}"
            )
        best, objective, latencies = _best(found, budget, Path(scratch))
        best.write(request.output / onnx_format.FILE)
    onnx_format.finish(request.output / onnx_format.FILE, request.source)
    facts = {
        "recipe": best.recipe,
        "precision": best.scheme.precision,
        "kept_layers": list(best.kept),
        "objective": objective,
        "latency_ms": latencies,
        "searched_on_samples": request.trials.half,
        "stopped_by": stopped or "nothing: every scheme was tried",
        "trials": budget.log_as_json(),
    }
    (request.output / LOG).write_text(json.dumps(facts, indent=1) + "\n")
    draw(budget, best, request.output / PLOT)
    return facts


def search(schemes: Sequence[Scheme], budget: TrialBudget) -> list[Candidate]:
    """Candidates that meet the gate, at most one a scheme. A scheme whose graph cannot be made is left out, said so.

    For the smallest, a scheme that misses the gate is relaxed only while its smallest graph would still be smaller.
    """
    found: list[Candidate] = []
    missing: list[Candidate] = []
    for scheme in schemes:
        if budget.spent():
            break
        try:
            whole = Candidate(scheme, (), budget.judge(scheme, ()))
        except Refused as reason:
            budget.say(f"{scheme.recipe} is left out: {reason}")
            continue
        if whole.trial.meets(budget.trials.limits):
            found.append(whole)
        elif scheme.layers:
            missing.append(whole)
    for candidate in sorted(missing, key=_size):
        if budget.bounds.objective == "latency" or _is_smallest(candidate, found):
            relaxed = _relaxed(candidate.scheme, budget)
            if relaxed is not None:
                found.append(relaxed)
    return found


def _size(candidate: Candidate) -> int:
    return candidate.trial.size_bytes


def _is_smallest(candidate: Candidate, others: Sequence[Candidate]) -> bool:
    return all(_size(candidate) < _size(other) for other in others)


def _relaxed(scheme: Scheme, budget: TrialBudget) -> Candidate | None:
    """The scheme with the fewest layers kept, along its own ranking, that meets the gate."""
    ranking = sensitivity.rank(scheme, budget.trials, budget.say, budget.spent)
    kept = mixed.fewest_kept(scheme, [entry.layer for entry in ranking], budget)
    return None if kept is None else Candidate(scheme, tuple(kept.layers), kept.trial)


def _best(
    found: Sequence[Candidate],
    budget: TrialBudget,
    scratch: Path,
) -> tuple[Candidate, str, dict[str, float] | None]:
    """The smallest, or the fastest where that is asked for and this machine is the target."""
    smallest = min(found, key=_size)
    if budget.bounds.objective == "size":
        return smallest, "size", None
    if budget.trials.time is None:
        return smallest, "size, because latency was not measured: no device attached", None
    files = {}
    for number, entry in enumerate(found):
        files[entry.recipe] = scratch / f"candidate{number}.onnx"
        entry.write(files[entry.recipe])
    latencies = budget.trials.time(files)
    fastest = min(found, key=lambda entry: latencies[entry.recipe])
    return fastest, "latency, P50 at batch 1 on this machine", latencies


def draw(budget: TrialBudget, best: Candidate, path: Path) -> None:
    """Every candidate's drop against its size, the gate, and what was chosen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    by_recipe: dict[str, list[tuple[float, float]]] = {}
    for entry in budget.log:
        point = (entry.size_bytes / 1024, entry.drop_points)
        by_recipe.setdefault(entry.recipe, []).append(point)
    for recipe, points in by_recipe.items():
        sizes, drops = zip(*sorted(points), strict=True)
        axis.plot(sizes, drops, "o-", label=recipe, markersize=4, linewidth=1)
    axis.plot(
        best.trial.size_bytes / 1024,
        best.trial.drop_points,
        "*",
        color="#1a7f37",
        markersize=16,
        label=f"chosen: {best.recipe}",
    )
    gate = budget.trials.limits.accuracy_drop_points
    axis.axhline(gate, color="#cf222e", linewidth=1, linestyle="--", label=f"gate: {gate:g} points")
    axis.set_xlabel("file size (KiB)")
    axis.set_ylabel("drop of the score (points)")
    axis.legend(fontsize=7)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def take(request: BuildRequest) -> Mapping[str, Any]:
    """The chosen graph by itself, with the facts of its choice."""
    shutil.copyfile(request.source / onnx_format.FILE, request.output / onnx_format.FILE)
    facts = json.loads((request.source / LOG).read_text())
    chosen = {name: facts[name] for name in ("recipe", "precision", "kept_layers", "objective", "searched_on_samples")}
    return onnx_format.describe(request.output / onnx_format.FILE) | chosen


def offered(spec: "ModelSpec") -> bool:
    """Models whose spec has bounds of a search."""
    return spec.search is not None


def parameters(spec: "ModelSpec", target: "Target") -> dict[str, Json]:
    """The parameters of every scheme, and the bounds."""
    return search_schemes.every_parameters(spec, target) | mixed.bounds(spec)


SEARCH = replace(
    onnx_format.FROM_MODEL,
    name="onnx_search",
    description="Every quantization that was tried for the gate: the log, its plot and the chosen graph.",
    format="json",
    precision="int8",
    build=build,
    parameters=parameters,
    is_candidate=False,
    is_model=False,
    needs=frozenset({"calibration", "search"}),
    offered=offered,
    mlflow_flavor=None,
)
SEARCHED = replace(
    SEARCH,
    name="onnx_searched",
    description="The smallest or fastest quantization that the search found under the gate.",
    format="onnx",
    source=SEARCH.name,
    build=take,
    parameters=lambda _spec, _target: {},
    is_candidate=True,
    is_model=True,
    needs=frozenset(),
    mlflow_flavor="onnx",
)
