"""The streaming network on frames of sound: every step takes the mel bands of one."""

from dataclasses import replace

import numpy as np
import torch

from edge_assets import AudioPreprocessing, Calibration, Dataset, Evaluation
from tests.tiny.stream import STREAM, network

PREPROCESSING = AudioPreprocessing(
    "frame",
    16000,
    samples=300,
    n_fft=50,
    hop=50,
    n_mels=4,
    log="ln",
    floor=1e-6,
    frames=6,
    mean=-1.0,
    std=3.0,
    axes=("time", "mel"),
)


def sounds(count: int, seed: int) -> dict[str, np.ndarray]:
    """Noise of many loudnesses, int16 [count, 300], and the label int64 [count] that the network gives."""
    rng = np.random.default_rng(seed)
    loudness = np.exp(rng.uniform(4, 9, (count, 6))).repeat(50, axis=1)
    frame = (rng.normal(size=(count, 300)) * loudness).clip(-32768, 32767).astype(np.int16)
    steps = torch.from_numpy(PREPROCESSING.apply({"frame": frame})["frame"])
    model = network()
    state = torch.zeros(2, count, 16)
    scores = torch.zeros(count, 3)
    with torch.inference_mode():
        for step in range(steps.shape[1]):
            given = model(steps[:, step], state)
            state, scores = given["h_next"], given["scores"]
    return {"frame": frame, "label": scores.argmax(1).numpy()}


def calibration() -> dict[str, np.ndarray]:
    return sounds(120, seed=1)


def evaluation() -> dict[str, np.ndarray]:
    return sounds(200, seed=2)


HEARD = replace(
    STREAM,
    name="heard",
    preprocessing=PREPROCESSING,
    calibration=Calibration(Dataset("tests.tiny.sounds:calibration")),
    evaluation=Evaluation(Dataset("tests.tiny.sounds:evaluation"), metric="tests.tiny.stream:last_step", minimum=100),
)
