"""The web bundle's preprocessing of sound, run in Node, against the dataset's numbers and against the released C."""

import json
import shutil
import subprocess
import wave
from pathlib import Path

import numpy as np
import pytest

from edge_assets import read_wav
from edge_assets.core.sound_tables import tables_of
from edge_assets.toolchains.web.bundle import SOURCES
from tests.native import compiler
from tests.pipeline.test_release_sound import SOUND, printed, program
from tests.sounds import DECLARED, RATE, SOUNDS, assert_same

FEATURES = """
import { readFile, writeFile } from "node:fs/promises";
import { fromSound } from "./sound.js";

const asked = JSON.parse(await readFile(process.argv[2]));
const arrays = { int16: Int16Array, float32: Float32Array, float64: Float64Array };
for (const { declared, tables, sound, dtype, output } of asked) {
  const { buffer } = new Uint8Array(await readFile(sound));
  const found = fromSound(new arrays[dtype](buffer), declared, tables)[declared.input];
  await writeFile(output, found.data);
  console.log(JSON.stringify(found.dims));
}
"""
FILES = """
import { readFile, writeFile } from "node:fs/promises";
import { openSound } from "./sound.js";

const [path, rate, output] = process.argv.slice(2);
await writeFile(output, await openSound(new Blob([await readFile(path)]), Number(rate)));
"""


def in_node(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A script beside the bundle's modules, run."""
    (folder / "package.json").write_text('{"type": "module"}')
    for name in ("sound.js", "sha256.js"):
        shutil.copy(SOURCES / name, folder)
    (folder / "main.js").write_text(script)
    command = [compiler("node"), "main.js", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_sound_in_javascript_is_numpys_and_cs(tmp_path: Path) -> None:
    """And C's bit for bit where no function but a square root is in it, also what rounding left."""
    asked = []
    for kind, sound in SOUNDS.items():
        sound.tofile(tmp_path / kind)
        for name, declared in DECLARED.items():
            tables = tables_of(declared)
            told = {"declared": declared.to_dict(), "tables": tables and tables.to_dict()}
            asked.append(told | {"sound": kind, "dtype": sound.dtype.name, "output": f"{name}-{kind}"})
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    result = in_node(tmp_path, FEATURES, "asked.json")
    assert result.returncode == 0, result.stderr
    shapes = iter(result.stdout.splitlines())
    sources = {}
    for name, declared in DECLARED.items():
        (tmp_path / name).mkdir()
        sources[name] = program(tmp_path / name, declared, SOUND)
    for sound in SOUNDS.values():
        for declared in DECLARED.values():
            assert json.loads(next(shapes)) == [1, *declared.features(sound).shape]
    for kind, sound in SOUNDS.items():
        for name, declared in DECLARED.items():
            found = np.fromfile(tmp_path / f"{name}-{kind}", np.float32)
            assert_same(found, declared, sound)
            if declared.log == "none":
                assert np.array_equal(found, printed(sources[name], sound)), (name, kind)


@pytest.mark.parametrize(("width", "channels"), [(1, 1), (2, 1), (2, 2), (3, 3), (4, 2)])
def test_a_wav_file_in_javascript_is_pythons(width: int, channels: int, tmp_path: Path) -> None:
    content = np.random.default_rng(width).integers(0, 256, 3000 * width * channels, np.uint8).tobytes()
    with wave.open(str(tmp_path / "sound.wav"), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(RATE)
        file.writeframes(content)
    result = in_node(tmp_path, FILES, "sound.wav", str(RATE), "output")
    assert result.returncode == 0, result.stderr
    assert np.array_equal(np.fromfile(tmp_path / "output", np.float32), read_wav(tmp_path / "sound.wav", RATE))
    wrong = in_node(tmp_path, FILES, "sound.wav", "8000", "output").stderr
    assert "the sound has 16000 samples per second, the model takes 8000: resample it first" in wrong


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no sound", "this is no WAV file"),
        (b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\3\0\1\0" + bytes(12), "this is no WAV file of whole numbers"),
        (b"RIFF\0\0\0\0WAVELIST\1\0\0\0xx", "this WAV file has no samples"),
    ],
)
def test_what_is_no_wav_file_of_whole_numbers_is_named(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "sound.wav").write_bytes(content)
    assert f"Error: {reason}\n" in in_node(tmp_path, FILES, "sound.wav", str(RATE), "output").stderr
