"""A CNN small enough to train in a second."""

import torch
from torch import nn


class TinyNet(nn.Module):
    """Images float32 [batch, 1, 8, 8] to logits float32 [batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(32 * 4, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(image).flatten(1))


class Mlp(nn.Module):
    """Almost all weights in matrix products: the graph that dynamic int8 is for."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layers(image)


class Unsupported(TinyNet):
    """TinyNet with an operator that ONNX has no form for."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image) + torch.special.bessel_j0(image.mean())
