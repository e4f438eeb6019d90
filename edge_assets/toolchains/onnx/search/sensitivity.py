"""Which layers do not take quantization well: each is quantized alone, and the model's outputs and score compared.

onnx_sensitivity  the ranking of every layer, for the int8 scheme that suits the graph

The signal-to-noise ratio of the outputs orders the layers, because it moves where a score on some hundred samples still
stands still; the score stands beside it. First and last layers and attention are measured like any other.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from edge_assets.core.trials import Trials
from edge_assets.core.variant import BuildRequest, in_depth
from edge_assets.errors import Refused
from edge_assets.toolchains.onnx import export as onnx_format
from edge_assets.toolchains.onnx.search.schemes import Scheme, int8, int8_parameters

SAMPLES = 256  # that each layer is judged on
FILE, PLOT = "sensitivity.json", "sensitivity.png"


@dataclass(frozen=True)
class Sensitivity:
    """One layer quantized alone: SNR in dB of the first output, and the score's drop in points with its interval."""

    layer: str
    operator: str
    weights: int
    snr_db: float
    drop_points: float
    drop_interval_points: list[float]  # as JSON has it


def rank(
    scheme: Scheme,
    trials: Trials,
    log: Callable[[str], None],
    spent: Callable[[], object] = lambda: None,
) -> list[Sensitivity]:
    """Every layer of the scheme, the most sensitive first; those alone that were judged before a budget was `spent`."""
    every = list(scheme.rest)
    for layer in scheme.layers:
        every += layer.nodes
    found = []
    for number, layer in enumerate(scheme.layers, 1):
        if spent():
            break
        others = [node for node in every if node not in layer.nodes]
        parameters = {**scheme.parameters, "only": layer.name}
        try:
            trial = trials.run(parameters, partial(scheme.write, others), SAMPLES)
        except Refused as reason:  # nothing of it has a quantized form, so there is nothing to keep either
            log(f"{layer.name} is left out: {reason}")
            continue
        snr = trial.snr_db if trial.snr_db is not None else float("-inf")
        log(f"{scheme.recipe}, layer {number} of {len(scheme.layers)}: {layer.name} alone, SNR {snr:.1f} dB")
        judged = Sensitivity(
            layer=layer.name,
            operator=layer.operator,
            weights=layer.weights,
            snr_db=snr,
            drop_points=trial.drop_points,
            drop_interval_points=[round(bound, 3) for bound in trial.drop_interval_points],
        )
        found.append(judged)
    return sorted(found, key=lambda entry: entry.snr_db)


def build(request: BuildRequest) -> Mapping[str, Any]:
    """Rank the layers and draw the ranking. Raises Refused where the graph has no layer to quantize."""
    assert request.trials is not None
    with tempfile.TemporaryDirectory() as scratch:
        scheme = int8(request, Path(scratch))
        ranking = rank(scheme, request.trials, request.log)
    if not ranking:
        raise Refused(f"no layer of this graph can be quantized by {scheme.recipe}")
    facts = {"recipe": scheme.recipe, "samples": min(SAMPLES, request.trials.half)}
    listed = [asdict(entry) for entry in ranking]
    ranked = facts | {"layers": listed}
    (request.output / FILE).write_text(json.dumps(ranked, indent=1) + "\n")
    draw(ranking, scheme.recipe, request.output / PLOT)
    return facts | {"ranking": listed}


def draw(ranking: Sequence[Sensitivity], recipe: str, path: Path) -> None:
    """A bar per layer, the most sensitive on top: SNR, and beside it the drop with its interval."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.5 + 0.22 * len(ranking)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    names = [f"{entry.layer}  {entry.operator}" for entry in ranking]
    left.barh(names, [entry.snr_db for entry in ranking], color="#0969da")
    left.set_xlabel("SNR of the output, this layer alone quantized (dB)")
    left.set_ylim(len(ranking) - 0.4, -0.6)  # the first on top
    left.tick_params(axis="y", labelsize=8)
    drops, below, above = [], [], []
    for entry in ranking:
        low, high = entry.drop_interval_points
        drops.append(entry.drop_points)
        below.append(entry.drop_points - low)
        above.append(high - entry.drop_points)
    right.errorbar(
        drops,
        names,
        xerr=[below, above],
        fmt="o",
        color="#bf8700",
        capsize=2,
        markersize=3,
    )
    right.axvline(0, color="#57606a", linewidth=0.8)
    right.set_xlabel("drop of the score (points, 95 % interval)")
    figure.suptitle(f"Sensitivity of each layer to {recipe}", fontsize=10)
    figure.savefig(path, dpi=110, metadata={"Software": None})


VARIANT = replace(
    onnx_format.FROM_MODEL,
    name="onnx_sensitivity",
    description="How much each layer, quantized alone, costs: the ranking that mixed precision keeps layers by.",
    format="json",
    precision="int8",
    build=build,
    parameters=int8_parameters,
    is_candidate=False,
    is_model=False,
    needs=frozenset({"calibration", "search"}),
    offered=in_depth,
    mlflow_flavor=None,
)
