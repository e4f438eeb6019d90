"""One checkpoint's way through one target, as memoized steps.

Each step states its recipe and calls the store, which returns what the same recipe made before or builds it.
The same functions on a read-only store are the plan: the first step that would have to work raises NotBuilt.
Nothing here knows Dagster or MLflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from edge_assets.core.types import Built, Result
from edge_assets.core.variant import CHECKPOINT
from edge_assets.errors import (
    UnknownName,
)
from edge_assets.pipeline.datasets import Datasets
from edge_assets.pipeline.identity import RELEASE, REPORT, Identity
from edge_assets.pipeline.measurement import Measurement
from edge_assets.pipeline.network import Network
from edge_assets.pipeline.recipes import Recipes
from edge_assets.pipeline.reference import Reference
from edge_assets.pipeline.variants import Variants
from edge_assets.pipeline.verification import Verification

if TYPE_CHECKING:
    from edge_assets.pipeline.elsewhere import Elsewhere

__all__ = ["RELEASE", "REPORT", "Cell"]


@dataclass(frozen=True)
class Cell(Identity):
    """A cell's steps: what is made of one checkpoint for one target, and how it is judged."""

    @cached_property
    def data(self) -> Datasets:
        return Datasets(self, self.recipes)

    @cached_property
    def recipes(self) -> Recipes:
        return Recipes(self)

    @cached_property
    def network(self) -> Network:
        return Network(self, self.data, self.recipes)

    @cached_property
    def reference(self) -> Reference:
        return Reference(self, self.data, self.recipes, self.network)

    @cached_property
    def verification(self) -> Verification:
        return Verification(self, self.data, self.recipes, self.reference)

    @cached_property
    def elsewhere(self) -> Elsewhere:
        from edge_assets.pipeline.elsewhere import Elsewhere  # what only asks what there is needs no devices

        return Elsewhere(self, self.data, self.recipes, self.reference, self.verification)

    @cached_property
    def measurement(self) -> Measurement:
        return Measurement(self, self.data, self.verification, self.elsewhere)

    @cached_property
    def variants(self) -> Variants:
        return Variants(
            cell=self,
            data=self.data,
            recipes=self.recipes,
            reference=self.reference,
            verification=self.verification,
            measurement=self.measurement,
            elsewhere=self.elsewhere,
        )

    def build(self, name: str) -> Built:
        """The checkpoint or one variant of the family, what it is made from first."""
        return self._build(name, {})

    def build_all(self) -> dict[str, Built]:
        """The checkpoint and every variant of the family, in the order of the graph."""
        builts: dict[str, Built] = {}
        for name in (CHECKPOINT, *(variant.name for variant in self.family.variants)):
            self._build(name, builts)
        return builts

    def _build(self, name: str, builts: dict[str, Built]) -> Built:
        """Build what is not among `builts` yet, and add it there."""
        if name not in builts:
            builts[name] = self._made(name, builts)
        return builts[name]

    def _made(self, name: str, builts: dict[str, Built]) -> Built:
        if name == CHECKPOINT:
            return self.reference.build()
        variants = {variant.name: variant for variant in self.family.variants}
        if name not in variants:
            raise UnknownName(f"variant of the family {self.family.name}", name, variants)
        variant = variants[name]
        source = self._build(variant.source, builts)
        others = {other: self._build(other, builts) for other in variant.others}
        return self.variants.build(variant, source, others)

    def observe(self, builts: Mapping[str, Built]) -> dict[str, Built]:
        """The variants, each with what its target's devices and emulated instruction sets say of it."""
        return self.elsewhere.observed(builts)

    def measure(self, builts: Mapping[str, Built], mode: str) -> Result:
        """Peak memory of every built variant and, on this machine or a device of the target, its latency."""
        return self.measurement.of(builts, mode)

    def planning(self) -> Cell:
        """The same cell on a store that refuses to build."""
        return replace(self, store=self.store.planning(), log=lambda _message: None)
