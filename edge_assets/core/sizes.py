"""Sizes and times as people read them, and the largest of single files."""

import math

KIB, MIB, GIB = 2**10, 2**20, 2**30
LARGEST_FILE_BYTES = 2 * GIB  # of protobuf messages and flatbuffers, whose offsets are 32-bit numbers


def is_too_large(weights_bytes: int) -> bool:
    """Whether weights do not fit into one file of such a format, beside all else that is in it."""
    return weights_bytes >= 0.95 * LARGEST_FILE_BYTES


def divided(size_bytes: int | None, unit: int) -> float | None:
    """A size in a larger unit; None where it is not known."""
    return None if size_bytes is None else size_bytes / unit


def readable_size(size_bytes: int) -> str:
    """In the largest of B, KiB and MiB of which there is at least one, such as 21.40 KiB."""
    if size_bytes < KIB:
        return f"{size_bytes} B"
    if size_bytes < MIB:
        return f"{size_bytes / KIB:.2f} KiB"
    return f"{size_bytes / MIB:.2f} MiB"


def readable_ms(milliseconds: float) -> str:
    """A time with three significant digits, so that two of them can be compared: 0.0123 ms, 3.09 ms, 412 ms."""
    digits = max(0, 2 - math.floor(math.log10(milliseconds))) if milliseconds > 0 else 0
    return f"{milliseconds:.{digits}f} ms"
