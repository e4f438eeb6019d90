"""The encoder of Resemblyzer (after Wan et al., Generalized End-to-End Loss for Speaker Verification, 2018).

Three LSTM layers of 256 units over mel frames, and the last layer's state projected to an embedding of unit length.
Module and parameter names are those of the published checkpoint.
"""

import torch
from torch import nn
from torch.nn import functional

MELS, UNITS, LAYERS, EMBEDDING = 40, 256, 3, 256
EPSILON = 1e-12  # of a squared length: where nothing has been heard, the embedding is 0


class VoiceEncoder(nn.Module):
    """A frame float32 [batch, 40], states h and c float32 [3, batch, 256] to an embedding [batch, 256] and both states.

    The embedding is of all the frames so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(MELS, UNITS, LAYERS, batch_first=True)
        self.linear = nn.Linear(UNITS, EMBEDDING)
        # in the checkpoint, of the loss that it was trained with
        self.similarity_weight = nn.Parameter(torch.ones(1))
        self.similarity_bias = nn.Parameter(torch.zeros(1))

    def forward(
        self, sound: torch.Tensor, h: torch.Tensor, c: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        _, (h_next, c_next) = self.lstm(sound[:, None], (h, c))
        raw = functional.relu(self.linear(h_next[-1]))
        embedding = raw * torch.rsqrt(raw.square().sum(dim=1, keepdim=True) + EPSILON)
        return embedding, h_next, c_next
