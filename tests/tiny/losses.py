"""Losses of the tests."""

from collections.abc import Mapping

import torch
from torch.nn.functional import cross_entropy

CALLS = 0


def margin(outputs: Mapping[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.multi_margin_loss(outputs["logits"], labels)


def breaks_late(outputs: Mapping[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy for nine calls, which end in the second epoch of TINY_QAT, then NaN."""
    global CALLS  # noqa: PLW0603
    CALLS += 1
    loss = cross_entropy(outputs["logits"], labels)
    return loss * float("nan") if CALLS > 9 else loss
