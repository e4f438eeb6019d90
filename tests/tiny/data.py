"""scikit-learn's digits as they are: enough to tell a right model from a broken one."""

import numpy as np
from sklearn.datasets import load_digits

SPLITS = {"train": slice(0, 1000), "calibration": slice(1000, 1200), "evaluation": slice(1200, 1797)}


def split(name: str) -> dict[str, np.ndarray]:
    """Images uint8 [n, 8, 8, 1] with pixels 0..255, and labels int64 [n]."""
    digits = load_digits()
    images = (digits.images[SPLITS[name]] * (255 / 16)).astype(np.uint8)[..., None]
    return {"image": images, "label": digits.target[SPLITS[name]].astype(np.int64)}


def calibration() -> dict[str, np.ndarray]:
    return split("calibration")


def finetuning() -> dict[str, np.ndarray]:
    data = split("train")
    return {name: array[:400] for name, array in data.items()}


def wrong_training_labels() -> dict[str, np.ndarray]:
    data = finetuning()
    return data | {"label": data["label"] + 5}


def images_only() -> dict[str, np.ndarray]:
    return {"image": finetuning()["image"]}


def float_training_labels() -> dict[str, np.ndarray]:
    data = finetuning()
    return data | {"label": data["label"].astype(np.float32)}


def leaking_training() -> dict[str, np.ndarray]:
    train, test = finetuning(), split("evaluation")
    return {name: np.concatenate([train[name], test[name][:7]]) for name in train}


def evaluation() -> dict[str, np.ndarray]:
    return split("evaluation")


def constant() -> dict[str, np.ndarray]:
    return {"image": np.zeros((200, 8, 8, 1), np.uint8)}


def few() -> dict[str, np.ndarray]:
    return {"image": split("calibration")["image"][:10]}


def wrong_shape() -> dict[str, np.ndarray]:
    return {"image": np.zeros((200, 9, 9, 1), np.uint8)}


def leaking() -> dict[str, np.ndarray]:
    return {"image": split("evaluation")["image"][:200]}


def wrong_labels() -> dict[str, np.ndarray]:
    data = split("evaluation")
    return data | {"label": data["label"] + 5}


def raising() -> dict[str, np.ndarray]:
    return {"image": split("evaluation")["pictures"]}


def raising_metric(outputs: dict[str, np.ndarray], labels: np.ndarray) -> np.ndarray:
    return outputs["scores"] == labels
