"""Sizes as people read them, and the largest of single files."""

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
