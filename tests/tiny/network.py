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


class Branching(TinyNet):
    """TinyNet with a branch on its input's values, which no symbolic tracer can follow."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = super().forward(image)
        return logits if image.sum() > 0 else logits * 2


class Atanh(TinyNet):
    """TinyNet with an operator that CoreML has and its evaluator has not."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image) + torch.atanh(image / 100).mean()


class Colour(nn.Module):
    """RGB images float32 [batch, 3, 6, 5] to a score float32 [batch, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(8 * 4 * 3, 4))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layers(image)


class Encoder(nn.Module):
    """Token ids and a mask, int64 [batch, tokens], to sentence embeddings float32 [batch, 32]."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(50, 32), nn.Embedding(512, 32)
        self.project, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.first, self.second = nn.LayerNorm(32), nn.LayerNorm(32)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        batch, tokens = ids.shape
        hidden = self.words(ids) + self.positions(torch.arange(tokens))
        query, key, value = (
            part.reshape(batch, tokens, 4, 8).transpose(1, 2) for part in self.project(hidden).chunk(3, -1)
        )
        bias = (1 - mask.float())[:, None, None] * -1e4
        attended = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        hidden = self.first(hidden + self.out(attended.transpose(1, 2).reshape(batch, tokens, 32)))
        hidden = self.second(hidden + self.mlp(hidden))
        weights = mask.float()[..., None]
        return (hidden * weights).sum(1) / weights.sum(1)


class Topics(Encoder):
    """Token ids and a mask, int64 [batch, tokens], to logits float32 [batch, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(32, 3)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.head(super().forward(ids, mask))


class Constant(TinyNet):
    """TinyNet plus a constant by an operator that ONNX has no form for; FX computes it while tracing."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image) + torch.special.bessel_j0(torch.zeros(1))


class Raising(TinyNet):
    """TinyNet with a mistake in its forward."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image) + self.bias_of_nothing  # type: ignore[operator]  # the mistake
