"""What is known of a file without reading it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stat:
    """One file below the root. `identity` changes where a file of the same size and time was put in its place."""

    key: str
    size: int
    modified: float  # seconds since the epoch
    identity: tuple[int, int] = (0, 0)
