"""Train the example: `python -m examples.segmentation.train` writes the checkpoint that the repository ships."""

import argparse
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

from examples.segmentation.data import CLASS_NAMES, draw, evaluation
from examples.segmentation.network import UNet
from examples.segmentation.spec import PREPROCESSING

EPOCHS, BATCH, PICTURES = 10, 16, 3200
WEIGHTS = torch.tensor([0.4, 1.0, 1.0, 1.0, 1.0])  # half of all pixels are background


def tensors(pictures: np.ndarray) -> torch.Tensor:
    """Pictures uint8 [n, 48, 48, 3] as the model's input, float32 [n, 3, 48, 48]."""
    return torch.from_numpy(PREPROCESSING.apply({"image": pictures})["image"])


@torch.inference_mode()
def mean_iou(model: torch.nn.Module) -> float:
    """Of the test set, 0 to 1: per class, pixels that are of it in both over those in either."""
    test = evaluation()
    classes = len(CLASS_NAMES)
    parts = [model(part).argmax(1) for part in tensors(test["image"]).split(100)]
    pairs = test["mask"] * classes + torch.cat(parts).numpy()
    confusion = np.bincount(pairs.ravel(), minlength=classes**2).reshape(classes, classes)
    both = np.diag(confusion)
    return float(np.mean(both / (confusion.sum(0) + confusion.sum(1) - both)))


def train(output: Path, epochs: int = EPOCHS, seed: int = 0) -> None:
    """Train from scratch, seeded, and write `segmentation.safetensors` into `output`."""
    torch.manual_seed(seed)
    model = UNet()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs omit this overload
    pictures, masks = draw("train", PICTURES)
    inputs, targets = tensors(pictures), torch.from_numpy(masks)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    steps = epochs * (PICTURES // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=8e-3, total_steps=steps)
    for _ in track(range(epochs), description="training"):
        order = torch.randperm(PICTURES)
        for start in range(0, PICTURES - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            batch, wanted = inputs[chosen].to(memory_format=torch.channels_last), targets[chosen]
            if torch.rand(()) < 0.5:
                batch, wanted = batch.flip(-1), wanted.flip(-1)
            loss = cross_entropy(model(batch), wanted, weight=WEIGHTS)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    path = output / "segmentation.safetensors"
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, path)
    print(f"{path}: mean IoU {mean_iou(model):.3f}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "checkpoints")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    train(arguments.output, arguments.epochs)
