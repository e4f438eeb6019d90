"""Declarations and sounds with which every language's preprocessing is compared with NumPy's."""

import numpy as np

from edge_assets import AudioPreprocessing

RATE = 16000
WHISPER = AudioPreprocessing(
    "sound",
    RATE,
    samples=RATE,
    n_fft=400,
    hop=160,
    n_mels=80,
    mel_scale="slaney",
    mel_norm="slaney",
    log="log10",
    below_peak=8.0,
    frames=110,
    mean=-4.0,
    std=4.0,
)
DECLARED = {
    "waveform": AudioPreprocessing("sound", RATE, samples=9000, mean=0.1, std=0.3),
    "spectrogram": AudioPreprocessing("sound", RATE, n_fft=512, hop=128),
    "prime": AudioPreprocessing("sound", RATE, n_fft=127, hop=50, power=1.0, window_length=100, axes=("time", "mel")),
    "odd": AudioPreprocessing("sound", RATE, n_fft=255, hop=100, center=False, log="ln", floor=1e-9, power=1.5),
    "whisper": WHISPER,
    "voices": AudioPreprocessing(
        "sound",
        RATE,
        n_fft=400,
        hop=160,
        n_mels=40,
        mel_scale="slaney",
        mel_norm="slaney",
        frames=60,
        axes=("time", "mel"),
    ),
    "decibels": AudioPreprocessing(
        "sound",
        RATE,
        n_fft=2048,
        hop=512,
        n_mels=64,
        f_min=50.0,
        f_max=7000.0,
        log="db",
        mean=-40.0,
        std=20.0,
        axes=("channel", "mel", "time"),
    ),
}


def noisy(samples: int, seed: int = 0) -> np.ndarray:
    """Noise and two tones, float64."""
    seconds = np.arange(samples) / RATE
    tones = 0.3 * np.sin(2 * np.pi * 440 * seconds) + 0.2 * np.sin(2 * np.pi * 3000 * seconds)
    return tones + 0.05 * np.random.default_rng(seed).normal(size=samples)


def _quiet() -> np.ndarray:
    """A tone that fades out, then silence, as whole numbers."""
    seconds = np.arange(8000) / RATE
    tone = 0.9 * np.sin(2 * np.pi * 700 * seconds) * np.exp(-20 * seconds)
    tone[6000:] = 0
    return np.round(tone * 32767).astype(np.int16)


SOUNDS: dict[str, np.ndarray] = {
    "float32": noisy(12001).astype(np.float32),
    "int16": np.round(noisy(12001) * 20000).astype(np.int16),
    "float64": noisy(7000),
    "quiet": _quiet(),
    "tone": (0.5 * np.sin(2 * np.pi * 1000 * np.arange(8000) / RATE)).astype(np.float32),
}


RESIDUE = 2.0**-23  # of the largest magnitude, -140 dB: below it is what rounding left beside a tone without noise


def assert_same(found: np.ndarray, declared: AudioPreprocessing, sound: np.ndarray) -> None:
    """A waveform bit for bit; of a spectrogram all but one value in a thousand, these by one unit in the last place.

    What rounding left where exact numbers would cancel each other out is not counted.
    """
    expected = declared.features(sound).reshape(-1)
    found = found.reshape(-1)
    assert found.dtype == expected.dtype == np.float32
    distance = np.abs(_ordered(found) - _ordered(expected))
    if declared.n_fft is None:
        assert not distance.any()
        return
    if declared.log == "none":
        is_residue = np.maximum(found, expected) < RESIDUE**declared.power * expected.max()
        distance = distance[~is_residue]
    assert distance.max() <= 1
    assert (distance > 0).mean() <= 0.001


def _ordered(values: np.ndarray) -> np.ndarray:
    """Whole numbers of which neighbours are those of neighbouring float32."""
    bits = np.ascontiguousarray(values).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
