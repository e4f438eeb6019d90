"""The loss that the example was trained with."""

from collections.abc import Mapping

import torch
from torch.nn.functional import cross_entropy

SMOOTHING = 0.05


def smoothed(outputs: Mapping[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy against labels that leave SMOOTHING to the other classes: logits keep the scale they have."""
    return cross_entropy(outputs["logits"], labels, label_smoothing=SMOOTHING)
