"""Messages between the product and an agent: a line of JSON, then as many bytes as its `payload` says."""

from __future__ import annotations

import io
import json
from typing import IO, Any

from edge_assets.later import np

LONGEST_LINE = 2**22  # bytes: timings of a million queries fit
LARGEST_PAYLOAD = 2**31  # bytes

Message = dict[str, Any]


class BrokenWire(Exception):
    """What came is no message: another program talks, or the other side was cut off within one."""


def send(stream: IO[bytes], message: Message, payload: bytes = b"") -> None:
    """Write one message. Raises OSError where the other side is gone."""
    line = json.dumps({**message, "payload": len(payload)})
    stream.write(line.encode() + b"\n")
    stream.write(payload)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[Message, bytes] | None:
    """The next message and its payload; None at the end. Raises BrokenWire."""
    line = stream.readline(LONGEST_LINE)
    if not line:
        return None
    try:
        message = json.loads(line)
        size = message["payload"]
    except (ValueError, TypeError, KeyError):
        raise BrokenWire(line[:200].decode(errors="replace").strip()) from None
    if type(size) is not int or not 0 <= size <= LARGEST_PAYLOAD:
        raise BrokenWire(f"a payload of {size!r} bytes")
    payload = _exactly(stream, size)
    if len(payload) < size:
        raise BrokenWire(f"the connection ended after {len(payload)} of {size} bytes")
    return message, payload


def _exactly(stream: IO[bytes], size: int) -> bytes:
    """So many bytes, or fewer at the end."""
    parts = []
    while size:
        part = stream.read(size)
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def packed(arrays: dict[str, np.ndarray]) -> bytes:
    """Arrays by name, as a payload: the bytes of an .npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # the stub wants allow_pickle
    return buffer.getvalue()


def unpacked(payload: bytes) -> dict[str, np.ndarray]:
    """The arrays of a payload. Raises ValueError for one that is none; runs no code of it."""
    with np.load(io.BytesIO(payload), allow_pickle=False) as data:
        return {name: data[name] for name in data.files}
