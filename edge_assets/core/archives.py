"""Zip files of PyTorch's: is one whole, and does it take no more room unpacked than it has?"""

import zipfile
from collections.abc import Sequence
from pathlib import Path

from edge_assets.errors import CheckpointError, printable

LONGEST = 700  # characters of a message about a file
PATH_LETTERS = 120  # of a path in one


def shown(path: Path) -> str:
    """A file's place as messages name it."""
    return printable(str(path), PATH_LETTERS)


def refusal(path: Path, reason: str, what: str = "checkpoint") -> CheckpointError:
    """The error about a file: which, and why. However odd the file is, it is one line that a person reads."""
    name = f"{what} {shown(path)}"
    return CheckpointError(f"{name} {printable(reason, LONGEST - len(name) - 4)}")


def check_archive(path: Path, records: Sequence[str] = (), what: str = "checkpoint") -> None:
    """Raises CheckpointError unless all is here, is stored as it is, and has the right checksums.

    `records` are ends of names that there must be.
    """
    if not zipfile.is_zipfile(path):
        raise refusal(
            path,
            "is not a complete torch zip file: it is truncated, or an old-style pickle, which is refused because "
            "reading it can run code. Save it anew, which runs none: "
            "torch.save(torch.load(OLD, weights_only=True), NEW)",
            what,
        )
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        names = archive.namelist()
        for record in records:
            if not any(name.endswith(record) for name in names):
                raise refusal(path, f"is a zip file, not one of torch: it has no '*{record}'", what)
        packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise refusal(
                path,
                f"was refused: {printable(packed[0])} is compressed, which torch.save never does, and could unpack "
                f"to any size. Save it again, best as safetensors.",
                what,
            )
        if min(entry.header_offset for entry in entries):  # what was found is a zip file within this one
            raise refusal(path, "is truncated or corrupt: its records do not begin where the file does", what)
        unpacked, size = sum(entry.file_size for entry in entries), path.stat().st_size
        if unpacked > size:
            raise refusal(path, f"was refused: its records claim {unpacked} bytes, the file has {size}", what)
        damaged = archive.testzip()
    if damaged is not None:
        raise refusal(path, f"is truncated or corrupt: the checksum of {printable(damaged)} is not right", what)
