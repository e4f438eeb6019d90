"""`edge-assets c-code`: a full-int8 network as C for firmware, from a released folder or a .tflite file."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from edge_assets.core.sizes import readable_size
from edge_assets.core.tools import installed
from edge_assets.errors import EdgeAssetsError
from edge_assets.hashing import sha256_of
from edge_assets.toolchains.litert import c_code, convert

MANIFEST = "manifest.json"
MODEL = convert.FILE
IDENTIFIER = b"TFL3"  # of such files, behind the first offset
SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Network:
    """A model's file, and the names of its inputs and outputs in the file's order."""

    path: Path
    name: str
    inputs: Sequence[str]
    outputs: Sequence[str]


def write_c_code(source: Path, folder: Path, symbol: str | None) -> None:
    """Write the C of a model into a folder, and say what it takes. Raises EdgeAssetsError, Refused."""
    installed(("ai-edge-litert",), "microcontroller")
    network = _released(source) if source.is_dir() else _own(source)
    symbol = symbol or re.sub(r"\W", "_", network.name, flags=re.ASCII)
    if not SYMBOL.fullmatch(symbol):
        raise EdgeAssetsError(f"'{symbol}' is no name of a function in C: name it with --symbol")
    program = c_code.program(network.path.read_bytes(), symbol, network.inputs, network.outputs)
    folder.mkdir(parents=True, exist_ok=True)
    program.write(folder)
    click.echo(f"{', '.join(program.files)} in {folder}")
    click.echo(f"{program.head};")
    click.echo(f"constants {readable_size(program.constant_bytes)}, arena {readable_size(program.arena_bytes)}")


def _own(path: Path) -> Network:
    """A model's file, with the names that its signature has. Raises EdgeAssetsError where it is none."""
    content = path.read_bytes()
    if content[4:8] != IDENTIFIER:
        raise EdgeAssetsError(f"{path} is no .tflite file: name one, or the folder of a microcontroller's release")
    inputs, outputs = convert.interface_order(path)
    return Network(path, path.stem, inputs, outputs)


def _released(folder: Path) -> Network:
    """The model of a released folder, which has to be the one that was released."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        session, file = manifest["session"], f"{manifest['file']}/{MODEL}"
        hashes = {entry["path"]: entry["sha256"] for entry in manifest["files"]}
        network = Network(folder / file, manifest["model"], tuple(session["inputs"]), tuple(session["outputs"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise EdgeAssetsError(
            f"{folder} is no released folder of a microcontroller's target: name one, or a .tflite file"
        ) from None
    if file not in hashes:
        raise EdgeAssetsError(f"{folder} holds {manifest['artifact']}, and C is written of litert_int8_full alone")
    if not network.path.exists() or sha256_of(network.path) != hashes[file]:
        raise EdgeAssetsError(f"{network.path} is not the released file any more")
    return network
