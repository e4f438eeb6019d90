"""Networks whose answers depend on more than the sample, or that are called in another way than by one image."""

import torch
from torch import nn
from torch.nn import functional

from tests.tiny.network import TinyNet


class DropoutLeftOn(TinyNet):
    """Dropout that does not ask whether it is training."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return functional.dropout(super().forward(image))


class InPlace(TinyNet):
    """Writes into its input."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image.mul_(0.5))


class CountingCalls(TinyNet):
    """A buffer that each call changes."""

    calls: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(image)


class Remembering(TinyNet):
    """An attribute that each call leaves to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.last = 0.0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = super().forward(image) + self.last
        self.last += 1.0
        return logits


class Squeezing(TinyNet):
    """Drops the batch when it is one."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image).squeeze()


class SqueezingFirst(TinyNet):
    """Drops the batch when it is one, where the next layer needs it."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(image).squeeze(0).flatten(1))


class BatchStatistics(TinyNet):
    """Centred over the batch."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image - image.mean(0, keepdim=True))


class Checking(TinyNet):
    """A branch on its input's values, which no symbolic tracer can follow, and no sample's answer depends on."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = super().forward(image)
        return logits if image.isfinite().all() else logits * 2


class TrainingNorm(TinyNet):
    """A normalisation that is put in training mode by each call."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.train()
        return super().forward(image)


class PositionDropped(nn.Module):
    """A module called on a parameter, as most vision transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 64))
        self.drop = nn.Dropout(0.1)
        self.head = nn.utils.parametrizations.weight_norm(nn.Linear(64, 10))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(image.flatten(1) + self.drop(self.position))


class Padded(nn.Module):
    """A transformer whose padded positions reach the output: rows of an image that are empty."""

    def __init__(self, enable_nested_tensor: bool = True) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=enable_nested_tensor)
        self.head = nn.Linear(8, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        rows = image[:, 0]
        is_empty = rows.amax(-1) == rows.amin(-1)
        return self.head(self.encoder(rows, src_key_padding_mask=is_empty).mean(1))


class OneLength(nn.Module):
    """Sequences float32 [batch, length, 4] to [batch, length, 4], but for 32 steps alone once it is traced."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Linear(4, 4)

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        steps = [self.scale(signal[:, step]) for step in range(signal.shape[1])]
        return torch.stack(steps, 1)


class AnyLength(nn.Module):
    """Sequences float32 [batch, length, 4] to [batch, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Linear(4, 4)

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        return self.scale(signal).mean(1)


class ExactLength(nn.Module):
    """Sequences float32 [batch, length, 4], of 32 steps alone."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(128, 4)

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        return self.out(signal.flatten(1))
