"""Every hardware family. A new one is a module beside `cpu` and a line here."""

from collections.abc import Iterator

from edge_assets.families.android import ANDROID
from edge_assets.families.apple import APPLE
from edge_assets.families.browser import BROWSER
from edge_assets.families.cpu import CPU
from edge_assets.families.family import Family
from edge_assets.families.microcontroller import MICROCONTROLLER
from edge_assets.families.nvidia import NVIDIA
from edge_assets.spec.model import ModelSpec
from edge_assets.targets import Target
from edge_assets.targets.project import target

FAMILIES = {family.name: family for family in (CPU, NVIDIA, APPLE, ANDROID, MICROCONTROLLER, BROWSER)}


def family_targets(spec: ModelSpec) -> Iterator[tuple[Family, list[Target]]]:
    """The families of a model, each with the model's targets in it."""
    targets = [target(name) for name in spec.targets]
    for family in FAMILIES.values():
        if mine := [entry for entry in targets if entry.family == family.name]:
            yield family.of(spec), mine
