"""What other languages need to compute a spectrogram: the numbers that Python computed, so that they are the same.

A sine or an exponential is not the same double in every language; sums and products are. So samples in `app/` and the
web page get window, mel bands and roots of unity as numbers, and compute with these in one order, which
`docs/from-release-to-app.md` describes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_assets.hashing import Json
from edge_assets.later import np

if TYPE_CHECKING:
    from edge_assets.spec.preprocess import AudioPreprocessing


@dataclass(frozen=True)
class SoundTables:
    """Tables of one spectrogram; float64. Without mel bands the last three are empty."""

    window: np.ndarray  # [n_fft]
    cosines: np.ndarray  # [n_fft]: of k / n_fft turns
    sines: np.ndarray  # [n_fft]: of -k / n_fft turns
    mel_first: tuple[int, ...]  # by band, its first bin
    mel_count: tuple[int, ...]  # by band, how many bins it has
    mel_weights: np.ndarray  # of all bands one after the other, how much of each of its bins

    def to_dict(self) -> dict[str, Json]:
        """As the web bundle has them, as JSON; every double is read back as it is."""
        return {
            "window": self.window.tolist(),
            "cosines": self.cosines.tolist(),
            "sines": self.sines.tolist(),
            "mel_first": list(self.mel_first),
            "mel_count": list(self.mel_count),
            "mel_weights": self.mel_weights.tolist(),
        }


def tables_of(declared: AudioPreprocessing) -> SoundTables | None:
    """The tables of a spectrogram; None for a model that takes the waveform."""
    if declared.n_fft is None:
        return None
    cosines, sines = roots_of_unity(declared.n_fft)
    first: list[int] = []
    weights: list[np.ndarray] = []
    if declared.n_mels is not None:
        for band in declared.filterbank():
            bins = np.flatnonzero(band)
            first.append(int(bins[0]) if bins.size else 0)
            weights.append(band[bins])  # a triangle has no gaps
    return SoundTables(
        window=declared.window(),
        cosines=cosines,
        sines=sines,
        mel_first=tuple(first),
        mel_count=tuple(len(one) for one in weights),
        mel_weights=np.concatenate([np.empty(0), *weights]),
    )


def roots_of_unity(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Real and imaginary parts of exp(-2 pi i k / count), float64 [count] each.

    Every angle is brought into the first eighth of a turn in whole numbers, so that quarters are exact and opposite
    roots are each other's negatives.
    """
    quarter, rest = np.divmod(4 * np.arange(count), count)
    is_past_half = 2 * rest > count
    folded = np.where(is_past_half, count - rest, rest)
    angles = (np.pi / 2) * folded / count
    near, far = np.cos(angles), np.sin(angles)
    cosine = np.where(is_past_half, far, near)
    sine = np.where(is_past_half, near, far)
    real = np.choose(quarter, [cosine, -sine, -cosine, sine])
    turned = np.choose(quarter, [sine, cosine, -sine, -cosine])
    return real + 0.0, 0.0 - turned  # no negative zeros
