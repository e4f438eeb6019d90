"""A model as C source, for firmware that has no file system: an aligned constant array and its length.

Sessions read the model back from it, so that what was verified is the array that is compiled.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

FILE, HEADER = "model.cc", "model.h"
ALIGNMENT = 16  # bytes; flatbuffers are read in place
PER_LINE = 16


def write(model: Path, symbol: str) -> dict[str, Any]:
    """Write model.cc and model.h beside the model. Facts of the array."""
    _write_lines(model.parent / FILE, _source(model.read_bytes(), symbol))
    _write_lines(model.parent / HEADER, _header(symbol))
    return {"symbol": symbol, "alignment": ALIGNMENT}


def read_array(path: Path) -> bytes:
    """The bytes of the array in a source file that `write` wrote."""
    body = path.read_text().partition("{")[2].partition("}")[0]
    return bytes.fromhex("".join(re.findall(r"0x([0-9a-f]{2})", body)))


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("\n".join(lines) + "\n")


def _source(content: bytes, symbol: str) -> Iterator[str]:
    yield f'#include "{HEADER}"'
    yield ""
    yield f"alignas({ALIGNMENT}) const unsigned char {symbol}[] = {{"
    for start in range(0, len(content), PER_LINE):
        yield "    " + " ".join(f"0x{byte:02x}," for byte in content[start : start + PER_LINE])
    yield "};"
    yield f"const unsigned int {symbol}_len = {len(content)};"


def _header(symbol: str) -> Iterator[str]:
    yield "#pragma once"
    yield ""
    yield f"extern const unsigned char {symbol}[];"
    yield f"extern const unsigned int {symbol}_len;"
