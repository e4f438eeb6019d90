"""Voices that are synthesised, and the task to find the other utterance of the same voice.

A voice is a source and a filter (Fant, 1960): pulses at its pitch, with its tilt and breath, through four resonances
at the formants of vowels (Peterson and Barney, 1952) as its vocal tract scales them. An utterance is a row of random
vowels, hisses and pauses over 1.6 seconds, with noise. The two utterances of a voice stand beside each other, so that
a prefix of even length is a task as well. Calibration and test voices are others. Everything is seeded.
"""

from dataclasses import dataclass

import numpy as np

RATE, SAMPLES, BLOCK = 16_000, 25_600, 160  # Hz; an utterance's length; samples of one set of filters
CALIBRATION_VOICES, TEST_VOICES = 15, 60
UTTERANCES = 2  # of a voice
# Hz, first to third formant of ten vowels, of men on average
VOWELS = np.array(
    [
        [270, 2290, 3010],
        [390, 1990, 2550],
        [530, 1840, 2480],
        [660, 1720, 2410],
        [730, 1090, 2440],
        [570, 840, 2410],
        [440, 1020, 2240],
        [300, 870, 2240],
        [640, 1190, 2390],
        [490, 1350, 1690],
    ],
    float,
)
BANDWIDTHS = np.array([60.0, 90.0, 130.0, 200.0])  # Hz
LOUDNESS_DB = -30.0  # of every utterance, as the encoder was trained with


@dataclass(frozen=True)
class Voice:
    """What makes a voice itself."""

    pitch: float  # Hz
    lift: float  # share of the pitch by which its melody rises and falls
    tract: float  # factor of all formants: above 1 for a short vocal tract
    habits: np.ndarray  # relative shift of each of the first three formants
    fourth: float  # Hz
    width: float  # factor of the bandwidths
    tilt: float  # of the source: near 1 is dull
    breath: float  # noise beside the pulses


def calibration() -> dict[str, np.ndarray]:
    """Utterances int16 [30, 25600] of the calibration voices."""
    return {"sound": utterances(CALIBRATION_VOICES, seed=1)["sound"]}


def evaluation() -> dict[str, np.ndarray]:
    """Utterances int16 [120, 25600] of the test voices and the number of the voice."""
    return utterances(TEST_VOICES, seed=2)


def reciprocal_rank(outputs: dict[str, np.ndarray], labels: np.ndarray) -> np.ndarray:
    """Of each utterance, 1 over the rank of the voice's other one among all others, by the last embedding; float64 [n].

    Raises ValueError where an utterance has no partner, or more than one.
    """
    partners = (labels[:, None] == labels[None]) & ~np.eye(len(labels), dtype=bool)
    if not (partners.sum(1) == 1).all():
        raise ValueError("every utterance needs exactly one partner among the samples: take an even number of them")
    embeddings = outputs["embedding"][:, -1].astype(np.float64)
    similarity = embeddings @ embeddings.T
    np.fill_diagonal(similarity, -np.inf)
    own = similarity[partners][:, None]
    return 1.0 / (1 + (similarity > own).sum(1))


def utterances(voices: int, seed: int) -> dict[str, np.ndarray]:
    """Two utterances of each voice, int16 [2 * voices, 25600], and the voice's number."""
    sounds, labels = [], []
    for number in range(voices):
        rng = np.random.default_rng([seed, number])
        voice = _voice(rng)
        for _ in range(UTTERANCES):
            sounds.append(_utterance(voice, rng))
            labels.append(number)
    return {"sound": np.stack(sounds), "label": np.array(labels)}


def _voice(rng: np.random.Generator) -> Voice:
    return Voice(
        pitch=float(np.exp(rng.uniform(np.log(85), np.log(250)))),
        lift=rng.uniform(0.02, 0.12),
        tract=rng.uniform(0.85, 1.25),
        habits=rng.normal(0, 0.1, 3),
        fourth=rng.uniform(3200, 3900),
        width=rng.uniform(0.6, 2.0),
        tilt=rng.uniform(0.6, 0.97),
        breath=rng.uniform(0.01, 0.3),
    )


def _utterance(voice: Voice, rng: np.random.Generator) -> np.ndarray:
    """1.6 seconds, int16 [25600]."""
    formants, pitch, voiced, hiss = _plan(voice, rng)
    phase = np.cumsum(np.repeat(pitch, BLOCK) / RATE * (1 + 0.01 * rng.normal(size=SAMPLES)))
    pulses = np.diff(np.floor(phase), prepend=0.0)
    source = _filtered(pulses, voice.tilt) * np.repeat(voiced, BLOCK)
    noise = np.repeat(0.3 * (voice.breath * voiced + hiss), BLOCK)
    sound = source + noise * rng.normal(size=SAMPLES)
    for place, bandwidth in enumerate(BANDWIDTHS * voice.width):
        sound = _resonance(sound, formants[:, place], bandwidth)
    sound = np.diff(sound, prepend=0.0)  # lips radiate high frequencies better
    below = 10 ** (-rng.uniform(25, 40) / 20)
    sound += below * np.sqrt(np.mean(sound**2)) * rng.normal(size=SAMPLES)
    sound *= 10 ** (LOUDNESS_DB / 20) / np.sqrt(np.mean(sound**2))
    return np.clip(np.round(sound * 32767), -32768, 32767).astype(np.int16)


def _plan(voice: Voice, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Per block of 10 ms: formants in Hz [blocks, 4], pitch in Hz, loudness of the pulses and of hisses [blocks]."""
    blocks = SAMPLES // BLOCK
    formants = np.zeros((blocks, 4))
    pitch, voiced, hiss = np.zeros(blocks), np.zeros(blocks), np.zeros(blocks)
    before: np.ndarray | None = None
    melody, start = rng.uniform(-1, 1), 0
    while start < blocks:
        length = min(int(rng.integers(5, 14)), blocks - start)
        part = slice(start, start + length)
        vowel = VOWELS[rng.integers(len(VOWELS))] * (1 + voice.habits)
        goal = voice.tract * np.append(vowel, voice.fourth)
        progress = np.minimum(1, np.arange(length) / 5)[:, None]  # from vowel to vowel within 50 ms
        formants[part] = goal if before is None else before * (1 - progress) + goal * progress
        melody = np.clip(melody + rng.normal(0, 0.5), -1.5, 1.5)
        pitch[part] = voice.pitch * (1 + voice.lift * (melody - 0.3 * np.arange(length) / length))
        kind = rng.random()
        voiced[part] = 1.0 if kind < 0.75 else 0.08
        if 0.75 <= kind < 0.9:
            hiss[part] = rng.uniform(0.3, 1.0)
        before = goal
        start += length
    return formants, pitch, np.convolve(voiced, np.ones(3) / 3, "same"), hiss


def _filtered(signal: np.ndarray, pole: float) -> np.ndarray:
    from scipy.signal import lfilter

    found: np.ndarray = lfilter([1.0], [1.0, -pole], signal)
    return found


def _resonance(signal: np.ndarray, frequencies: np.ndarray, bandwidth: float) -> np.ndarray:
    """A resonator whose frequency, in Hz, changes from block to block."""
    from scipy.signal import lfilter

    radius = np.exp(-np.pi * bandwidth / RATE)
    state = np.zeros(2)
    found = np.empty_like(signal)
    for number, frequency in enumerate(frequencies):
        part = slice(number * BLOCK, (number + 1) * BLOCK)
        poles = np.array([1.0, -2 * radius * np.cos(2 * np.pi * min(frequency, 7000.0) / RATE), radius**2])
        found[part], state = lfilter([poles.sum()], poles, signal[part], zi=state)
    return found
