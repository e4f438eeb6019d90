"""Files to and from a device, by their hash: what it has is not sent, and what was cut goes on from there."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from edge_assets.core.types import Artifact
from edge_assets.devices.connection import Connection
from edge_assets.errors import DeviceError
from edge_assets.hashing import sha256_of

CHUNK = 2**20  # bytes of a file that are sent at a time


def send_bytes(connection: Connection, content: bytes) -> str:
    """Content that the device then has by its hash, which is returned. Raises DeviceError, AgentError."""
    sha256 = hashlib.sha256(content).hexdigest()
    _send(connection, sha256, len(content), io.BytesIO(content))
    return sha256


def send_artifact(connection: Connection, artifact: Artifact, path: Path) -> str:
    """Send the files of an artifact at `path` that the device has not. Returns where they lie there.

    Raises DeviceError, AgentError.
    """
    lacking = _lacking(connection, [file.sha256 for file in artifact.files])
    for file in artifact.files:
        if file.sha256 not in lacking:
            continue
        lacking.pop(file.sha256)  # one content may have two names
        place = path / file.path if path.is_dir() else path
        with place.open("rb") as content:
            _send(connection, file.sha256, file.size, content)
    by_path = {file.path: file.sha256 for file in artifact.files}
    return str(connection.ask("artifact", sha256=artifact.sha256, files=by_path)["path"])


def fetch(connection: Connection, sha256: str, size: int, folder: Path) -> Path:
    """A file that was made there, below `folder`, from where it was cut the last time.

    Raises DeviceError where another one arrives, AgentError.
    """
    path = folder / sha256
    with path.open("ab") as file:
        while file.tell() < size:
            _, content = connection.exchange({"command": "get", "sha256": sha256, "offset": file.tell()})
            if not content:
                break
            file.write(content)
    if sha256_of(path) != sha256:
        path.unlink()
        raise DeviceError(
            f"what {connection.device.name} sent is not what it said, {sha256}: it was changed on its way"
        )
    return path


def _lacking(connection: Connection, hashes: Sequence[str]) -> dict[str, int]:
    """Of files by hash those that the device has not, with how many bytes of each it has already."""
    have: dict[str, int | None] = connection.ask("have", files=list(hashes))["have"]
    return {sha256: start for sha256, start in have.items() if start is not None}


def _send(connection: Connection, sha256: str, size: int, file: IO[bytes]) -> None:
    """A file, from where it was cut the last time."""
    start = _lacking(connection, [sha256]).get(sha256)
    if start is None:
        return
    file.seek(start)
    is_whole = False
    while not is_whole:
        content = file.read(CHUNK)
        is_whole = file.tell() >= size
        connection.exchange({"command": "put", "sha256": sha256, "offset": start, "last": is_whole}, content)
        start += len(content)
