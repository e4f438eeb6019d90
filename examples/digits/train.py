"""Train the example: `python -m examples.digits.train` writes the two checkpoints that the repository ships.

The earlier checkpoint is a snapshot of the same run, so the registry has a history to compare.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file

from examples.digits.data import evaluation_in_depth, render
from examples.digits.losses import smoothed
from examples.digits.network import DigitsNet
from examples.digits.spec import PREPROCESSING

EPOCHS, EARLIER, BATCH, IMAGES = 30, 8, 128, 11_000  # IMAGES: fresh views drawn for each epoch


def tensors(images: np.ndarray) -> torch.Tensor:
    """Images uint8 [n, 32, 32, 1] as the model's input, float32 [n, 1, 32, 32]."""
    return torch.from_numpy(PREPROCESSING.apply({"image": images})["image"])


@torch.inference_mode()
def accuracy(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Top-1 accuracy in percent."""
    hits = [(model(x).argmax(1) == y).sum() for x, y in zip(images.split(500), labels.split(500), strict=True)]
    return 100 * float(sum(hits)) / len(labels)


def train(output: Path, epochs: int = EPOCHS, seed: int = 0) -> None:
    """Train from scratch, seeded, and write `digits-epochNN.safetensors` files into `output`."""
    torch.manual_seed(seed)
    model = DigitsNet()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs omit this overload
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.02)
    steps = epochs * (IMAGES // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    test = evaluation_in_depth()
    test_images, test_labels = tensors(test["image"]), torch.from_numpy(test["label"])
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns) as progress:
        task = progress.add_task("training", total=steps)
        for epoch in range(1, epochs + 1):
            images, labels = render("train", IMAGES, seed=1000 + epoch)
            order = torch.randperm(IMAGES)
            inputs, targets = tensors(images)[order], torch.from_numpy(labels)[order]
            model.train()
            for start in range(0, IMAGES - BATCH + 1, BATCH):
                batch = inputs[start : start + BATCH].to(memory_format=torch.channels_last)
                loss = smoothed({"logits": model(batch)}, targets[start : start + BATCH])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                progress.update(task, advance=1, description=f"epoch {epoch} loss {loss.item():.3f}")
            if epoch in (min(EARLIER, epochs), epochs):
                path = output / f"digits-epoch{epoch:02d}.safetensors"
                model.eval()
                state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
                save_file(state, path)
                progress.print(f"{path}: test accuracy {accuracy(model, test_images, test_labels):.2f} %")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "checkpoints")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    train(arguments.output, arguments.epochs)
