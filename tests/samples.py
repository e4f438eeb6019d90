"""Data sets as they are kept, from arrays."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp

import numpy as np

from edge_assets.core.datasets.kept import KeptArrays
from edge_assets.core.datasets.npz import save_arrays


def kept(arrays: Mapping[str, np.ndarray], folder: Path) -> KeptArrays:
    """Arrays in a file of their own below `folder`."""
    path = Path(mkdtemp(dir=folder)) / "data.npz"
    save_arrays(arrays, path)
    return KeptArrays(path)
