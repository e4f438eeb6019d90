"""Images float32 [batch, 1, 32, 32] to logits float32 [batch, 10], by three kinds of network."""

import torch
from torch import nn


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


class Residual(nn.Module):
    """Two 3x3 convolutions, added to the input or to its projection (He et al., 2015)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_conv(inputs, outputs, 3, stride), nn.ReLU(), *_conv(outputs, outputs, 3))
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Sequential(*_conv(inputs, outputs, 1, stride))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class ResidualNet(nn.Module):
    """A ResNet of plain convolutions, 2.8 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        widths = [(32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1)]
        blocks = [Residual(*width) for width in widths]
        self.features = nn.Sequential(*_conv(1, 32, 3, 2), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Linear(256, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(image).flatten(1))


class DepthwiseNet(nn.Module):
    """Depthwise and pointwise convolutions in turn with ReLU6, after MobileNet V1 (Howard et al., 2017)."""

    def __init__(self) -> None:
        super().__init__()
        widths = [(32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 1)]
        layers: list[nn.Module] = [*_conv(1, 32, 3, 2), nn.ReLU6()]
        for inputs, outputs, stride in widths:
            layers += [*_conv(inputs, inputs, 3, stride, groups=inputs), nn.ReLU6()]
            layers += [*_conv(inputs, outputs, 1), nn.ReLU6()]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Linear(512, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(image).flatten(1))


class Attention(nn.Module):
    """A pre-norm transformer block (Dosovitskiy et al., 2020)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        normed = self.norm1(x)
        query, key, value = (
            layer(normed).reshape(batch, tokens, self.heads, width // self.heads).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.mlp(self.norm2(x))


class SmallViT(nn.Module):
    """Patches of 4x4, four blocks of width 96, mean of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 96, 4, 4)
        self.positions = nn.Parameter(0.02 * torch.randn(1, 64, 96))
        self.blocks = nn.Sequential(*(Attention(96, 4) for _ in range(4)))
        self.norm = nn.LayerNorm(96)
        self.classifier = nn.Linear(96, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(image).flatten(2).transpose(1, 2) + self.positions
        return self.classifier(self.norm(self.blocks(tokens)).mean(1))
