"""A small MobileNet-style CNN: inverted residuals with depthwise convolutions, BatchNorm and hardswish."""

import torch
from torch import nn

# expanded channels, output channels, kernel, stride
BLOCKS = [
    (48, 24, 3, 2),
    (72, 24, 3, 1),
    (96, 40, 5, 2),
    (160, 40, 5, 1),
    (240, 64, 3, 1),
    (320, 64, 3, 1),
    (384, 96, 5, 2),
    (576, 96, 5, 1),
    (576, 96, 5, 1),
]


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    padding = kernel // 2
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise kxk, project 1x1; added to its input where the shapes allow."""

    def __init__(self, inputs: int, expanded: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_conv(inputs, expanded, 1),
            nn.Hardswish(),
            *_conv(expanded, expanded, kernel, stride, groups=expanded),
            nn.Hardswish(),
            *_conv(expanded, outputs, 1),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class DigitsNet(nn.Module):
    """Images float32 [batch, 1, 32, 32] to logits float32 [batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [*_conv(1, 16, 3), nn.Hardswish()]
        channels = 16
        for expanded, outputs, kernel, stride in BLOCKS:
            layers.append(InvertedResidual(channels, expanded, outputs, kernel, stride))
            channels = outputs
        self.features = nn.Sequential(*layers, *_conv(channels, 384, 1), nn.Hardswish())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Linear(384, 256), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(256, 10))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.pool(self.features(image)).flatten(1))
