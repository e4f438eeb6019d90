"""A U-Net (Ronneberger et al., 2015) of three levels with 8 to 48 channels, BatchNorm and transposed convolutions."""

from itertools import pairwise

import torch
from torch import nn

WIDTHS = (8, 16, 32, 48)
CLASSES = 5


def _twice(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3 x 3 convolutions, each with BatchNorm and ReLU."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Pictures float32 [batch, 3, 48, 48] to logits float32 [batch, 5, 48, 48]. Sides must be multiples of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.first = _twice(3, WIDTHS[0])
        self.pool = nn.MaxPool2d(2)
        self.down, self.up, self.joined = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for fine, coarse in pairwise(WIDTHS):
            self.down.append(_twice(fine, coarse))
            self.up.append(nn.ConvTranspose2d(coarse, fine, 2, stride=2))
            self.joined.append(_twice(2 * fine, fine))
        self.classifier = nn.Conv2d(WIDTHS[0], CLASSES, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.first(image)
        kept = []
        for down in self.down:
            kept.append(features)
            features = down(self.pool(features))
        for level in reversed(range(len(kept))):
            features = self.up[level](features)
            features = self.joined[level](torch.cat([kept[level], features], dim=1))
        return self.classifier(features)
