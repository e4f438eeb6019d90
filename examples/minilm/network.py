"""The encoder of all-MiniLM-L6-v2: BERT (Devlin et al., 2018) with 6 layers of 384 units, pooled and normalised.

Module names are those of the published checkpoint, so its state dict loads as it is. Pooling and normalisation are
part of the graph, so that every runtime gives sentence embeddings whose dot product is their cosine similarity.
"""

import math

import torch
from torch import nn
from torch.nn import functional

LAYERS, HIDDEN, HEADS, INTERMEDIATE = 6, 384, 12, 1536
VOCABULARY, POSITIONS, TYPES = 30522, 512, 2
EPSILON = 1e-12  # of the layer norms
MASKED = -1e4  # added to the scores of padding: finite in half precision too


class Embeddings(nn.Module):
    """The sum of word, position and token type embeddings, normalised."""

    position_ids: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(VOCABULARY, HIDDEN)
        self.position_embeddings = nn.Embedding(POSITIONS, HIDDEN)
        self.token_type_embeddings = nn.Embedding(TYPES, HIDDEN)
        self.LayerNorm = nn.LayerNorm(HIDDEN, EPSILON)
        self.register_buffer("position_ids", torch.arange(POSITIONS)[None])  # in the checkpoint, and not needed

    def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor) -> torch.Tensor:
        positions = self.position_embeddings(torch.arange(input_ids.shape[1], device=input_ids.device))
        return self.LayerNorm(self.word_embeddings(input_ids) + positions + self.token_type_embeddings(token_type_ids))


class SelfAttention(nn.Module):
    """Scaled dot products of all heads; `bias` [batch, 1, 1, length] is added to the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(HIDDEN, HIDDEN) for _ in range(3))

    def forward(self, hidden: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        batch, length = hidden.shape[:2]
        query, key, value = (
            layer(hidden).reshape(batch, length, HEADS, HIDDEN // HEADS).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-1, -2) / math.sqrt(HIDDEN // HEADS) + bias
        return (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, HIDDEN)


class Projection(nn.Module):
    """A linear layer, added to the residual and normalised."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, HIDDEN)
        self.LayerNorm = nn.LayerNorm(HIDDEN, EPSILON)

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.dense(x) + residual)


class Layer(nn.Module):
    """Attention and feed-forward network, each with its residual."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": SelfAttention(), "output": Projection(HIDDEN)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(HIDDEN, INTERMEDIATE)})
        self.output = Projection(INTERMEDIATE)

    def forward(self, hidden: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        attended = self.attention["output"](self.attention["self"](hidden, bias), hidden)
        return self.output(functional.gelu(self.intermediate["dense"](attended)), attended)


class MiniLM(nn.Module):
    """Token ids, mask and types, int64 [batch, length], to unit embeddings float32 [batch, 384].

    Padding, where the mask is 0, changes nothing beyond rounding.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = Embeddings()
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer() for _ in range(LAYERS))})
        self.pooler = nn.ModuleDict({"dense": nn.Linear(HIDDEN, HIDDEN)})  # in the checkpoint; embeddings do without

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        mask = attention_mask.to(torch.float32)
        bias = ((1 - mask) * MASKED)[:, None, None]
        hidden = self.embeddings(input_ids, token_type_ids)
        for layer in self.encoder["layer"].children():
            hidden = layer(hidden, bias)
        weights = mask[..., None]
        mean = (hidden * weights).sum(1) / weights.sum(1)
        return functional.normalize(mean, dim=-1)
