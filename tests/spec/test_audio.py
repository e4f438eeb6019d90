"""Sound as a model's features: what `preprocess.py` computes, against torch.stft and filterbanks by definition."""

import json
import wave
from dataclasses import replace
from math import exp, log, log10
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_assets import AudioPreprocessing, read_wav
from edge_assets.errors import InvalidSpec
from edge_assets.spec.preprocess import from_dict
from tests import sounds
from tests.sounds import RATE

SPECTROGRAM = AudioPreprocessing("sound", RATE, n_fft=400, hop=160)
WHISPER = replace(sounds.WHISPER, samples=RATE * 2, frames=200)


def sound(samples: int = RATE, seed: int = 0) -> np.ndarray:
    """Noise and two tones."""
    return sounds.noisy(samples, seed).astype(np.float32)


def mel_by_definition(declared: AudioPreprocessing, highest: float) -> np.ndarray:
    """A filterbank value by value, from the published formulas of either scale."""
    step = log(6.4) / 27

    def mel(hertz: float) -> float:
        if declared.mel_scale == "htk":
            return 2595 * log10(1 + hertz / 700)
        return 3 * hertz / 200 if hertz < 1000 else 15 + log(hertz / 1000) / step

    def hertz(value: float) -> float:
        if declared.mel_scale == "htk":
            return 700 * (10 ** (value / 2595) - 1)
        return 200 * value / 3 if value < 15 else 1000 * exp(step * (value - 15))

    assert declared.n_mels is not None
    assert declared.n_fft is not None
    lowest, spread = mel(declared.f_min), mel(highest) - mel(declared.f_min)
    corners = [hertz(lowest + spread * i / (declared.n_mels + 1)) for i in range(declared.n_mels + 2)]
    bank = np.zeros((declared.n_mels, declared.n_fft // 2 + 1))
    for row in range(declared.n_mels):
        left, peak, right = corners[row : row + 3]
        height = 2 / (right - left) if declared.mel_norm == "slaney" else 1.0
        for column in range(bank.shape[1]):
            frequency = column * declared.sampling_rate / declared.n_fft
            rising, falling = (frequency - left) / (peak - left), (right - frequency) / (right - peak)
            bank[row, column] = height * max(0.0, min(rising, falling))
    return bank


def spectrum(waveform: np.ndarray, n_fft: int, hop: int, window: int, center: bool) -> np.ndarray:
    """torch.stft in float64."""
    return torch.stft(
        torch.from_numpy(waveform).double(),
        n_fft,
        hop_length=hop,
        win_length=window,
        window=torch.hann_window(window, dtype=torch.float64),
        center=center,
        return_complex=True,
    ).numpy()


@pytest.mark.parametrize(
    ("n_fft", "hop", "window", "center"),
    [(400, 160, 400, True), (512, 128, 320, True), (512, 200, 511, False), (255, 100, 255, True)],
)
def test_a_spectrogram_is_torchs(n_fft: int, hop: int, window: int, center: bool) -> None:
    declared = replace(SPECTROGRAM, n_fft=n_fft, hop=hop, window_length=window, center=center)
    found = declared.apply({"sound": np.stack([sound(4000), sound(4000, seed=1)])})["sound"]
    assert found.dtype == np.float32
    for one, seed in zip(found, (0, 1), strict=True):
        magnitudes = np.abs(spectrum(sound(4000, seed), n_fft, hop, window, center))
        np.testing.assert_allclose(one, magnitudes**2, rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(replace(declared, power=1.0).features(sound(4000, seed)), magnitudes, rtol=1e-5)


@pytest.mark.parametrize("scale", ["htk", "slaney"])
@pytest.mark.parametrize("norm", ["none", "slaney"])
def test_mel_bands_are_those_of_the_definition(scale: str, norm: str) -> None:
    declared = replace(SPECTROGRAM, n_mels=23, mel_scale=scale, mel_norm=norm, f_min=50.0, f_max=7000.0)  # type: ignore[arg-type]
    energies = np.abs(spectrum(sound(), 400, 160, 400, True)) ** 2
    expected = mel_by_definition(declared, 7000.0) @ energies
    np.testing.assert_allclose(declared.features(sound()), expected, rtol=1e-5)


def test_whispers_features_are_those_of_its_recipe() -> None:
    """log10, at most 8 below the peak, (x + 4) / 4, of a padded sound without its last frame: Radford et al., 2022."""
    padded = np.pad(sound(), (0, RATE))
    energies = np.abs(spectrum(padded, 400, 160, 400, True)[:, :-1]) ** 2
    logarithms = np.log10(np.maximum(mel_by_definition(WHISPER, RATE / 2) @ energies, 1e-10))
    expected = (np.maximum(logarithms, logarithms.max() - 8.0) + 4.0) / 4.0
    found = WHISPER.apply({"sound": [sound(), sound(RATE // 2)]})["sound"]
    assert found.shape == (2, 80, 200)
    np.testing.assert_allclose(found[0], expected, atol=1e-6)


def test_logarithms_have_a_floor_and_axes_an_order() -> None:
    silence = np.zeros(RATE, np.float32)
    decibels = replace(SPECTROGRAM, n_mels=8, log="db", floor=1e-6, axes=("channel", "time", "mel"))
    assert decibels.features(silence).shape == (1, 101, 8)
    assert np.all(decibels.features(silence) == -60)
    np.testing.assert_allclose(replace(decibels, log="ln").features(silence), np.log(1e-6), rtol=1e-6)
    longer = replace(decibels, frames=150).features(sound())
    assert longer.shape == (1, 150, 8)
    assert np.all(longer[:, 101:] == -60)
    plain = replace(decibels, axes=("mel", "time"))
    assert np.array_equal(plain.features(sound()), decibels.features(sound())[0].T)


def test_waveforms_are_cut_padded_and_scaled() -> None:
    declared = AudioPreprocessing("sound", RATE, samples=5)
    whole = np.array([16384, -32768, 0], np.int16)
    assert declared.features(whole).tolist() == [0.5, -1, 0, 0, 0]
    assert declared.apply({"sound": [whole, sound(9)]})["sound"].shape == (2, 5)
    with pytest.raises(ValueError, match="waveforms of several lengths: say `samples` or `frames`"):
        replace(declared, samples=None).apply({"sound": [whole, sound(9)]})
    with pytest.raises(ValueError, match=r"must be float32 or int16 of shape \(samples,\), mono, got float32 \(9, 2\)"):
        declared.features(np.zeros((9, 2), np.float32))
    with pytest.raises(ValueError, match="are too few to reflect 200"):
        SPECTROGRAM.features(sound(100))


@pytest.mark.parametrize(("width", "steps"), [(1, 7), (2, 15), (3, 23), (4, 31)])
def test_wav_files_of_every_width_are_read_and_made_mono(width: int, steps: int, tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    values = np.array([[0.5, 0.25], [-0.5, -0.25], [0.0, 0.0]])
    whole = (values * 2.0**steps).astype(np.int64)
    if width == 1:
        whole += 128
    content = b"".join(int(value).to_bytes(width, "little", signed=width > 1) for value in whole.reshape(-1))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(width)
        file.setframerate(RATE)
        file.writeframes(content)
    assert read_wav(path, RATE).tolist() == [0.375, -0.375, 0.0]
    with pytest.raises(ValueError, match="has 16000 samples per second, the model takes 8000: resample it first"):
        read_wav(path, 8000)
    path.write_text("no sound")
    with pytest.raises(ValueError, match=r"sound.wav is no .wav file of whole numbers"):
        read_wav(path, RATE)


def test_what_is_declared_is_json_and_a_wrong_value_is_named() -> None:
    assert from_dict(json.loads(json.dumps(WHISPER.to_dict()))) == WHISPER
    assert "f_max" not in WHISPER.to_dict()
    for change, reason in (
        ({"n_fft": None}, "hop, n_mels, log and frames are of a spectrogram"),
        ({"hop": None}, "a spectrogram needs its hop"),
        ({"window_length": 401}, "window_length 401 is longer than n_fft 400"),
        ({"axes": ("mel",)}, "axes are mel and time"),
    ):
        with pytest.raises(InvalidSpec, match=reason):
            replace(WHISPER, **change)
    with pytest.raises(InvalidSpec) as error:
        replace(WHISPER, n_mels=0, log="log2")  # type: ignore[arg-type]
    assert str(error.value).splitlines() == [
        "preprocessing.n_mels: 0 must be greater than or equal to 1",
        "preprocessing.log: log2 must be 'none', 'ln', 'log10' or 'db'. Did you mean log10?",
    ]
