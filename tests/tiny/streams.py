"""The tiny data as samples that stream, and metrics for them."""

from collections.abc import Iterator, Mapping

import numpy as np

from tests.tiny.data import split


class Digits:
    """A map-style data set."""

    def __init__(self, name: str) -> None:
        self.data = split(name)

    def __len__(self) -> int:
        return len(self.data["label"])

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        return {name: array[position] for name, array in self.data.items()}


def evaluation() -> Digits:
    return Digits("evaluation")


def calibration() -> Iterator[dict[str, np.ndarray]]:
    digits = Digits("calibration")
    for position in range(len(digits)):
        yield digits[position]


def finetuning() -> Iterator[dict[str, np.ndarray]]:
    digits = Digits("train")
    for position in range(400):
        yield digits[position]


def broken() -> Iterator[dict[str, np.ndarray]]:
    """A label that is no class, far into the set."""
    digits = Digits("evaluation")
    for position in range(len(digits)):
        sample = digits[position]
        yield sample | {"label": np.asarray(10 if position == 500 else sample["label"])}


def constant_metric(_outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> np.ndarray:
    return np.ones(len(labels))


def confidence(outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> np.ndarray:
    """The probability of the label's class."""
    logits = outputs["logits"].astype(np.float64)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: np.ndarray = odds / odds.sum(axis=1, keepdims=True)
    return shares[np.arange(len(labels)), labels]
