"""How a number is known: the tiers of evidence, the best first. No number is shown without its own."""

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

Tier = Literal["device", "emulated", "host", "reference", "graph"]
TIERS: tuple[Tier, ...] = get_args(Tier)

# what computed a number: the legend of the scorecard's page, of model cards and of docs/devices.md
MEANINGS: Mapping[Tier, str] = {
    "device": "the artifact itself, on hardware that matches the target",
    "emulated": "the artifact itself, in the target's runtime, on an emulated instruction set or in the vendor's "
    "simulator: values count, times never",
    "host": "the artifact itself, in the target's runtime, on the building machine's own instruction set",
    "reference": "the artifact's program, evaluated by another engine, such as a CoreML program off a Mac",
    "graph": "the graph that the artifact was made from, such as a TensorRT kit's ONNX graph where its GPU is not",
}


def best(tiers: Iterable[Tier]) -> Tier:
    """The best of some, of which there is at least one."""
    return min(tiers, key=TIERS.index)


def suffices(tier: Tier, demanded: Tier | None) -> bool:
    """Whether evidence of a tier is as good as what is demanded, if anything is."""
    return demanded is None or TIERS.index(tier) <= TIERS.index(demanded)
