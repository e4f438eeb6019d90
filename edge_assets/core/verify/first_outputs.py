"""What a model gives for the first evaluation samples, kept so that models can be compared with each other.

PyTorch is what every variant is judged by. How far one is from the fp32 file that it was quantized from tells what the
scheme cost, and what the conversion before it did.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edge_assets.core.datasets.npz import open_npz, save_arrays
from edge_assets.core.verify import parity
from edge_assets.later import np
from edge_assets.spec.model import PARITY_SAMPLES

FILE = "first_outputs.npz"
MOST_BYTES = 2**24  # that are kept of one model


def save(outputs: Mapping[str, np.ndarray], path: Path) -> None:
    """Keep the first eight samples of `outputs`, samples first, or as many as are small enough; of huge ones none."""
    sample_bytes = sum(array[:1].nbytes for array in outputs.values())
    count = min(PARITY_SAMPLES, MOST_BYTES // max(sample_bytes, 1))
    if count:
        save_arrays({name: array[:count] for name, array in outputs.items()}, path)


def snr_db(reference: Path, path: Path) -> float | None:
    """The signal-to-noise ratio of the worst output, over the samples that both files hold.

    None where one has NaN or infinite values, or outputs of another shape.
    """
    expected, given = open_npz(reference), open_npz(path)
    found = []
    for name, member in expected.members.items():
        if name not in given.members:
            return None
        count = min(member.shape[0], given.members[name].shape[0])
        one = expected.rows(0, count, [name])[name]
        other = given.rows(0, count, [name])[name]
        difference = parity.compare(one, other)
        if difference.snr_db is None:
            return None
        found.append(difference.snr_db)
    return min(found)
