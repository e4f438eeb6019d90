"""A checkpoint in several files, as Hugging Face's libraries write large ones, read as the one file that it stands for.

`model-00001-of-00002.safetensors` and its siblings hold one state dict. The set goes by the address of its first file.
It is complete when every file of it is there: their names say how many there are, so that the index beside them says
nothing more.
"""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from edge_assets.core.archives import refusal
from edge_assets.core.checkpoint import check_complete

SHARD = re.compile(
    r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.safetensors)",
    re.IGNORECASE,
)
LENGTH_BYTES = 8  # of the number before a safetensors header
METADATA = "__metadata__"


def set_of(name: str) -> str | None:
    """The name that a set goes by, that of its first file; None for a file that is in no set."""
    shard = SHARD.fullmatch(name)
    if shard is None:
        return None
    return f"{shard['stem']}-00001-of-{shard['count']}{shard['suffix']}"


def number_of(name: str) -> int:
    """Which file of its set it is, from 1."""
    shard = SHARD.fullmatch(name)
    assert shard is not None
    return int(shard["number"])


def members(name: str) -> list[str]:
    """The names of all files of the set that goes by that name, in order; empty if it is none."""
    shard = SHARD.fullmatch(name)
    if shard is None:
        return []
    count = shard["count"]
    return [f"{shard['stem']}-{number:05}-of-{count}{shard['suffix']}" for number in range(1, int(count) + 1)]


def stem_of(name: str) -> str:
    """A file's name without its suffix, and without what says that it is one of several."""
    shard = SHARD.fullmatch(name)
    if shard is not None:
        return shard["stem"]
    return Path(name).stem


def merge(paths: Sequence[Path], target: Path) -> None:
    """Write the tensors of several safetensors files as one, the same bytes each time.

    Raises CheckpointError for a file that is not whole, and for a tensor that is in two of them.
    """
    merged: dict[str, object] = {}
    starts = []
    size = 0
    for path in paths:
        check_complete(path)
        header, start = _header(path)
        for name, entry in header.items():
            if name == METADATA:
                continue
            if name in merged:
                raise refusal(path, f"has the tensor {name}, which another file of its set has too")
            first, last = entry["data_offsets"]
            merged[name] = {**entry, "data_offsets": [first + size, last + size]}
        starts.append(start)
        size += path.stat().st_size - start
    content = json.dumps(merged, sort_keys=True, separators=(",", ":")).encode()
    content += b" " * (-len(content) % LENGTH_BYTES)
    with target.open("wb") as writer:
        writer.write(len(content).to_bytes(LENGTH_BYTES, "little"))
        writer.write(content)
        for path, start in zip(paths, starts, strict=True):
            with path.open("rb") as reader:
                reader.seek(start)
                shutil.copyfileobj(reader, writer, 2**20)


def _header(path: Path) -> tuple[dict[str, dict[str, list[int]]], int]:
    """A whole safetensors file's header, and where its tensors begin."""
    with path.open("rb") as reader:
        length = int.from_bytes(reader.read(LENGTH_BYTES), "little")
        header: dict[str, dict[str, list[int]]] = json.loads(reader.read(length))
    return header, LENGTH_BYTES + length
