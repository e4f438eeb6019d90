"""Sizes as people read them."""

KIB, MIB = 2**10, 2**20


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
