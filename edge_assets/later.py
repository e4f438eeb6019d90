"""NumPy for modules that the definitions load: imported when something of it is first asked for.

Loading the definitions takes no arrays, and importing NumPy takes a fifth of the time that importing Dagster does. A
module with `from edge_assets.later import np` begins with `from __future__ import annotations`, so that annotations are
not evaluated, and uses `np` in functions alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = ["np"]


class Later:
    """A module that is imported when an attribute of it is first asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> object:
        value = getattr(import_module(self._name), attribute)
        setattr(self, attribute, value)  # from now on found without this method
        return value


if TYPE_CHECKING:
    import numpy as np
else:
    np = Later("numpy")
