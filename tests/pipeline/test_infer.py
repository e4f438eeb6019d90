"""`infer.py` on files of one's own: the inputs that it gives a model are the dataset's, bit for bit."""

import ast
import json
import shutil
import subprocess
import sys
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_assets import AudioPreprocessing, ImagePreprocessing
from edge_assets.core import layout
from edge_assets.core.runtimes import RUNTIMES
from edge_assets.hashing import sha256_of
from edge_assets.pipeline import release
from edge_assets.spec import preprocess
from edge_assets.spec.preprocess import Preprocessing

# a runtime whose model gives its inputs back, and keeps them as they are
RUNTIME = """
import numpy as np

def load(path, manifest):
    def run(feeds):
        np.savez(path, **feeds)
        return feeds
    return run
"""
# a classifier that gives an embedding too
TWO_OUTPUTS = """
import numpy as np

def load(path, manifest):
    return lambda feeds: {"logits": np.array([[1.0, 5.0]]), "embedding": np.arange(9.0)[None]}
"""
COPIED = [Path(preprocess.__file__), Path(layout.__file__), release.HERE / "infer.py"]
COPIED += [release.TOOLCHAINS / runtime.loader for runtime in RUNTIMES.values() if runtime.loader]
COLOUR = ImagePreprocessing("image", 24, 32, 3, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
GREY = ImagePreprocessing("image", 24, 32, 1, mean=(0.1,), std=(0.4,))


@pytest.mark.parametrize("path", COPIED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_a_release_holds_a_copy_of_imports_nothing_of_the_product(path: Path) -> None:
    for statement in ast.parse(path.read_text()).body:
        names = []
        if isinstance(statement, ast.Import):
            names = [alias.name for alias in statement.names]
        if isinstance(statement, ast.ImportFrom):
            names = [statement.module or ""]
        assert not [name for name in names if name.partition(".")[0] in ("edge_assets", "resources")]


def released(folder: Path, declared: Preprocessing, runtime: str = RUNTIME, classes: tuple[str, ...] = ()) -> Path:
    """A folder that `infer.py` takes for a release."""
    folder.mkdir()
    shutil.copy(release.HERE / "infer.py", folder)
    shutil.copy(preprocess.__file__, folder / "preprocess.py")
    (folder / "runtime.py").write_text(runtime)
    np.savez(folder / "sample.npz", raw_image=np.zeros((1, 24, 32, 3), np.uint8))
    files = [{"path": path.name, "sha256": sha256_of(path)} for path in folder.iterdir()]
    manifest: dict[str, object] = {"files": files, "preprocessing": declared.to_dict(), "file": "given.npz"}
    manifest["class_names"] = list(classes)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def infer(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "infer.py", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    "declared",
    [
        replace(COLOUR, resize="stretch", filter="bicubic"),
        replace(COLOUR, resize="crop", resize_to=(40,), order="BGR"),
        replace(GREY, resize="letterbox", fill=(114,)),
        replace(COLOUR, height=80, width=80, least=(24, 32), multiple=8, resize="letterbox"),
    ],
)
def test_a_photo_on_its_side_gives_the_datasets_numbers(declared: ImagePreprocessing, tmp_path: Path) -> None:
    upright = np.random.default_rng(0).integers(0, 256, (96, 32, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned to the right
    sideways = np.ascontiguousarray(upright.transpose(1, 0, 2)[::-1])
    Image.fromarray(sideways).save(tmp_path / "photo.png", exif=exif)
    folder = released(tmp_path / "released", declared)
    result = infer(folder, "--image", str(tmp_path / "photo.png"))
    assert result.returncode == 0, result.stderr
    assert np.array_equal(np.load(folder / "given.npz")["image"], declared.apply({"image": upright[None]})["image"])


def test_a_sound_file_gives_the_datasets_numbers(tmp_path: Path) -> None:
    declared = AudioPreprocessing("sound", 16000, samples=4000, n_fft=400, hop=160, n_mels=20, log="ln")
    whole = np.random.default_rng(0).integers(-9999, 9999, 3000, np.int16)
    with wave.open(str(tmp_path / "sound.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(whole.tobytes())
    folder = released(tmp_path / "released", declared)
    result = infer(folder, "--audio", str(tmp_path / "sound.wav"))
    assert result.returncode == 0, result.stderr
    assert np.array_equal(np.load(folder / "given.npz")["sound"], declared.apply({"sound": whole[None]})["sound"])
    assert "--image: the inputs of this model are of the kind 'audio'" in infer(folder, "--image", "a.png").stderr


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("wide.png", "must have 24 x 32 pixels (height x width), got 32 x 96; `resize` of the preprocessing would say"),
        ("absent.png", "absent.png; without the option the bundled sample is run"),
        ("text.png", "text.png is no picture that Pillow can read"),
    ],
)
def test_a_file_that_cannot_be_taken_is_one_sentence(name: str, reason: str, tmp_path: Path) -> None:
    folder = released(tmp_path / "released", COLOUR)
    Image.new("RGB", (96, 32)).save(tmp_path / "wide.png")
    (tmp_path / "text.png").write_text("no picture")
    result = infer(folder, "--image", str(tmp_path / name))
    assert result.returncode
    assert reason in result.stderr
    assert "Traceback" not in result.stderr


def test_the_class_is_that_of_the_first_output_and_no_other(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(tmp_path / "photo.png")
    folder = released(tmp_path / "released", COLOUR, TWO_OUTPUTS, ("cat", "dog"))
    result = infer(folder, "--image", str(tmp_path / "photo.png"))
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("class: ") == 1
    assert "class: dog" in result.stdout
