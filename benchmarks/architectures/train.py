"""Train one of the architectures on fresh views of the digits example's training sources, seeded."""

from pathlib import Path

import torch
from rich.progress import track
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

from edge_assets.spec.source import load
from examples.digits.data import render
from examples.digits.train import tensors

EPOCHS, BATCH, IMAGES = 15, 128, 6_000


def train(architecture: str, path: Path) -> None:
    """Write a checkpoint of `package.module:class` to `path`."""
    torch.manual_seed(0)
    model: torch.nn.Module = load(architecture)()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=EPOCHS * (IMAGES // BATCH))
    for epoch in track(range(EPOCHS), description=f"training {path.stem}"):
        images, labels = render("train", IMAGES, seed=2000 + epoch)
        order = torch.randperm(IMAGES)
        inputs, targets = tensors(images)[order], torch.from_numpy(labels)[order]
        for start in range(0, IMAGES - BATCH + 1, BATCH):
            part = slice(start, start + BATCH)
            loss = cross_entropy(model(inputs[part]), targets[part], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in model.eval().state_dict().items()}, path)
