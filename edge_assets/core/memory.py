"""Peak of live tensor bytes over a program's order of execution: what its activations need at least."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Lifetime:
    """One tensor's bytes, and the first and last step at which it must be in memory."""

    bytes: int
    first: int
    last: int


def peak_live_bytes(lifetimes: Iterable[Lifetime]) -> int:
    """The largest sum of the bytes of tensors that are live at one step."""
    changes: dict[int, int] = {}
    for tensor in lifetimes:
        changes[tensor.first] = changes.get(tensor.first, 0) + tensor.bytes
        changes[tensor.last + 1] = changes.get(tensor.last + 1, 0) - tensor.bytes
    live = peak = 0
    for step in sorted(changes):
        live += changes[step]
        peak = max(peak, live)
    return peak
