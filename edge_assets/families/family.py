"""A hardware family: the variants that its targets are offered, in build order."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from edge_assets.core.variant import CHECKPOINT, Variant
from edge_assets.errors import InvalidSpec
from edge_assets.spec.model import ModelSpec


@dataclass(frozen=True)
class Family:
    """One family graph. Every variant that a model is offered applies to every target of the family."""

    name: str
    description: str
    variants: tuple[Variant, ...]
    baseline_device: Literal["cpu", "cuda"] = "cpu"  # where PyTorch eager is timed on the target
    package: str | None = None  # the variant whose folder is released, around the winner; None: the winner itself

    def __post_init__(self) -> None:
        known = {CHECKPOINT}
        for variant in self.variants:
            for source in (variant.source, *variant.others):
                if source not in known:
                    raise InvalidSpec(
                        f"family {self.name}", f"{variant.name} is made from {source}, which must stand before it"
                    )
            known.add(variant.name)

    @property
    def intermediates(self) -> frozenset[str]:
        """Names of the variants that cannot win: what others are made from, and packages of others."""
        return frozenset(variant.name for variant in self.variants if not variant.is_candidate)

    def variant(self, name: str) -> Variant:
        """The variant of that name, which it has."""
        return next(variant for variant in self.variants if variant.name == name)

    def of(self, spec: ModelSpec) -> "Family":
        """The family as that model has it: with the variants that it is offered, or that it names of them.

        What named ones are made from is built with them, and is no candidate.
        """
        offered = [variant for variant in self.variants if variant.offered(spec)]
        if spec.variants:
            chosen = self._with_sources(spec.variants)
            offered = [_as_named(variant, chosen, spec.variants) for variant in offered if variant.name in chosen]
        return replace(self, variants=tuple(offered))

    def _with_sources(self, names: Collection[str]) -> set[str]:
        """Those names, what they are made from, and what the family packs its winner in."""
        chosen = {*names, self.package}
        for variant in reversed(self.variants):
            if variant.name in chosen:
                chosen.add(variant.source)
        return {name for name in chosen if name}


def _as_named(variant: Variant, chosen: Collection[str], named: Collection[str]) -> Variant:
    """One of the variants that are built for the sake of those that are named."""
    others = tuple(name for name in variant.others if name in chosen)
    return replace(variant, others=others, is_candidate=variant.is_candidate and variant.name in named)
