"""The folder `app/` of a release: code in the platform's language that computes what Python computed."""

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as onnxruntime_python
import pytest
from click.testing import CliRunner
from PIL import Image

from edge_assets.cli.commands import main
from edge_assets.core import app_samples
from edge_assets.core.app_samples import AppSample, NoAppSample
from edge_assets.core.runtimes import RUNTIMES
from edge_assets.core.variant import CHECKPOINT
from edge_assets.families.families import FAMILIES
from edge_assets.hashing import sha256_of
from edge_assets.pipeline.cell import Cell
from edge_assets.pipeline.judgement import Judgement
from edge_assets.pipeline.release import app
from edge_assets.pipeline.release.app import ReleasedSample
from edge_assets.spec.model import Calibration, Dataset, Evaluation
from edge_assets.spec.preprocess import ImagePreprocessing, Passthrough, Preprocessing
from edge_assets.targets.project import target
from edge_assets.toolchains.litert import tflite_micro
from edge_assets.toolchains.litert.session import Port
from resources import checkpoints
from resources.store import ArtifactStore
from tests.conftest import ROOT
from tests.native import STRICT, compiler, largest_differences, onnxruntime, run_c, run_onnx_sample
from tests.tiny import wide
from tests.tiny.spec import TINY

SAMPLES = {name: runtime.app for name, runtime in RUNTIMES.items() if isinstance(runtime.app, AppSample)}
NAMES = ('say "hi"', "back\\slash", "what??/", "$dollar", "line\nbreak", "é")
PREPROCESS = """
#include <stdio.h>
#include "model_values.h"

int main(int argc, char **argv) {
  static uint8_t pixels[1 << 16];
  static float values[1 << 16];
  FILE *file = fopen(argv[argc - 1], "rb");
  size_t count = fread(pixels, 1, sizeof pixels, file);
  preprocess_image(pixels, values, &MODEL_IMAGE);
  fwrite(values, sizeof(float), count, stdout);
  return fclose(file);
}
"""
FIT = """
#include <stdio.h>
#include <stdlib.h>
#include "model_values.h"

int main(int argc, char **argv) {
  Picture picture = MODEL_SAMPLE;
  const size_t bytes = picture.height * picture.width * picture.channels;
  uint8_t *given = malloc(bytes), *pixels = malloc(MODEL_IMAGE_BYTES);
  int32_t *scratch =
      malloc(sizeof(int32_t) * FIT_SCRATCH(picture.height, picture.width, MODEL_IMAGE.width, MODEL_IMAGE.channels));
  float *values = malloc(sizeof(float) * MODEL_IMAGE_BYTES);
  FILE *file = fopen(argv[argc - 1], "rb");
  if (fread(given, 1, bytes, file) != bytes) return 1;
  picture.pixels = given;
  const ImageValues image = sized_for(&picture, &MODEL_IMAGE);
  if (!fit_picture(&picture, pixels, &image, scratch)) return 2;
  preprocess_image(pixels, values, &image);
  fwrite(values, sizeof(float), image.height * image.width * image.channels, stdout);
  return fclose(file);
}
"""
QUANTIZE = """
#include <stdio.h>
#include "preprocess.h"

int main(int argc, char **argv) {
  static float values[1 << 16];
  static int8_t quantized[1 << 16];
  FILE *file = fopen(argv[argc - 1], "rb");
  size_t count = fread(values, sizeof(float), 1 << 16, file);
  quantize(values, quantized, count, SCALE, -51);
  fwrite(quantized, 1, count, stdout);
  dequantize(quantized, values, count, SCALE, -51);
  fwrite(values, sizeof(float), count, stdout);
  return fclose(file);
}
"""
CONSTANTS = """
#include <stdio.h>
#include "model_values.h"
#include "sample_values.h"

int main(void) {
  for (int i = 0; i < MODEL_CLASS_COUNT; i++) printf("%s%c", MODEL_CLASSES[i], 0);
  return SAMPLE_OUTPUTS[0][0] == 0.1f && MODEL_INPUTS[0].count == SAMPLE_LARGEST_COUNT ? 0 : 1;
}
"""


def written(
    folder: Path,
    sample: AppSample,
    preprocess: Preprocessing,
    raw: np.ndarray,
    facts: dict[str, Any] | None = None,
    name: str = "image",
) -> Path:
    """The folder `app/` of a model with one input of that name, which gave 0.1 three times."""
    values = {name: raw}
    inputs = preprocess.apply(values)
    manifest = {
        **dict.fromkeys(("model", "checkpoint", "artifact", "target"), "any"),
        "file": "model.any",
        "session": {},
        "preprocessing": preprocess.to_dict(),
        "class_names": list(NAMES),
    }
    outputs = {"scores": np.full((1, 3), 0.1, np.float32)}
    app.write(folder, sample, manifest, facts or {}, ReleasedSample(values, inputs, outputs))
    return folder / app.FOLDER


def micro_facts(shape: list[int], layout: str) -> dict[str, Any]:
    """What the build of a microcontroller's model says that its constants are made of."""
    quantized = {"dtype": "int8", "scale": 0.0112, "zero_point": -51}
    return {
        "symbol": "any_model",
        "arena": {"total": 5664},
        "operators": {"CONV_2D": 2, "FULLY_CONNECTED": 1},
        "signature": {
            "inputs": [{"name": "image", "shape": shape, "layout": layout, **quantized}],
            "outputs": [{"name": "scores", "shape": [1, 3], "layout": "as in PyTorch", **quantized}],
        },
    }


# --- every runtime -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_runtime_has_a_sample_or_says_why_not(name: str) -> None:
    sample = RUNTIMES[name].app
    if isinstance(sample, NoAppSample):
        assert sample.reason
        return
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for source in sample.sources:
        assert (app.TOOLCHAINS / source).is_file()
        folder, _, file = source.partition("/")
        patterns = data[f"edge_assets.toolchains.{folder}"]
        assert any(fnmatch(file, pattern) for pattern in patterns), f"{source} is in no wheel"
    assert (app.TEMPLATES / f"{app.VALUES[sample.language]}.jinja").is_file()
    assert "{" not in sample.build.format(file="model.any")


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_comes_with_its_models_constants(name: str, tmp_path: Path) -> None:
    sample = SAMPLES[name]
    preprocess = ImagePreprocessing("image", height=2, width=3, channels=1, mean=(0.3,), std=(0.35,))
    facts = None if sample.has_files else micro_facts([1, 2, 3, 1], "NHWC")
    folder = written(tmp_path, sample, preprocess, np.zeros((1, 2, 3, 1), np.uint8), facts)
    names = {path.name for path in folder.iterdir()}
    assert {Path(source).name for source in sample.sources} <= names
    constants = (folder / app.VALUES[sample.language]).read_text()
    assert "0.00392156886" in constants
    assert "0.349999994" in constants
    if sample.has_files:
        assert (folder / "sample_image.bin").read_bytes() == bytes(6)
        assert np.fromfile(folder / "expected_scores.bin", "<f4").tolist() == [np.float32(0.1)] * 3


def test_a_model_without_pictures_gets_its_inputs_in_the_files_own_types(tmp_path: Path) -> None:
    raw = np.array([[1, 2, 3]])
    for sample, dtype in ((app_samples.ONNX, "<i8"), (app_samples.COREML, "<i4")):
        released = tmp_path / sample.language
        released.mkdir()
        folder = written(released, sample, Passthrough(("image",)), raw)
        assert np.fromfile(folder / "sample_image.bin", dtype).tolist() == [1, 2, 3]


# --- C -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_preprocessing_in_c_is_numpys_bit_for_bit(channels: int, layout: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(channels)
    raw = rng.integers(0, 256, (1, 37, 23, channels), dtype=np.uint8)
    mean, std = rng.uniform(0.2, 0.6, channels), rng.uniform(0.1, 0.4, channels)
    preprocess = ImagePreprocessing(
        "image",
        height=37,
        width=23,
        channels=channels,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        scale=1 / 127.5,
    )
    if layout == "NCHW":
        folder = written(tmp_path, app_samples.ONNX, preprocess, raw)
    else:
        folder = written(tmp_path, app_samples.MICROCONTROLLER, preprocess, raw, micro_facts([1, 37, 23, 1], layout))
    (folder / "main.c").write_text(PREPROCESS)
    raw.tofile(folder / "pixels.bin")
    found = np.frombuffer(run_c(folder / "main.c", str(folder / "pixels.bin")), np.float32)
    expected = preprocess.apply({"image": raw})["image"]
    placed = expected if layout == "NCHW" else np.moveaxis(expected, 1, -1)
    assert np.array_equal(found.view(np.int32), np.ascontiguousarray(placed).reshape(-1).view(np.int32))


COLOUR = ImagePreprocessing("image", 24, 32, 3, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
GREY = replace(COLOUR, channels=1, mean=(0.1,), std=(0.4,))
RANGE = replace(COLOUR, height=64, width=72, least=(24, 32))
FITS = [
    (replace(COLOUR, resize="stretch", filter="bicubic"), (96, 32, 3)),
    (replace(COLOUR, resize="stretch", filter="bicubic", antialias=False), (13, 70, 3)),
    (replace(COLOUR, resize="stretch", filter="nearest", order="BGR"), (41, 43, 4)),
    (replace(COLOUR, resize="crop", resize_to=(40,), other_channels="composite"), (97, 51, 4)),
    (replace(COLOUR, resize="crop", resize_to=(33, 47), filter="box", background=(9, 8, 7)), (31, 200, 2)),
    (replace(COLOUR, resize="letterbox", fill=(10, 20, 30)), (96, 32, 1)),
    (replace(COLOUR, resize="letterbox", align="start", filter="bicubic", order="BGR"), (9, 300, 3)),
    (replace(GREY, resize="crop"), (50, 61, 3)),
    (replace(GREY, other_channels="composite", background=(200, 100, 50)), (24, 32, 4)),
    (replace(COLOUR, channels=4, mean=(0.1,) * 4, std=(0.4,) * 4, resize="stretch"), (30, 60, 2)),
    (RANGE, (45, 33, 3)),
    (replace(RANGE, resize="stretch", multiple=8), (45, 27, 3)),
    (replace(RANGE, resize="stretch", multiple=8), (300, 51, 4)),
    (replace(RANGE, resize="letterbox", multiple=8, fill=(10, 20, 30)), (45, 51, 3)),
    (replace(RANGE, resize="letterbox", multiple=8, align="start"), (90, 31, 1)),
]


@pytest.mark.parametrize(("preprocess", "shape"), FITS)
def test_pictures_of_any_size_in_c_are_numpys_bit_for_bit(
    preprocess: ImagePreprocessing, shape: tuple[int, int, int], tmp_path: Path
) -> None:
    raw = np.random.default_rng(0).integers(0, 256, (1, *shape), np.uint8)
    raw[0, : shape[0] // 2] = (raw[0, : shape[0] // 2] > 127) * np.uint8(255)
    folder = written(tmp_path, app_samples.ONNX, preprocess, raw)
    (folder / "main.c").write_text(FIT)
    found = np.frombuffer(run_c(folder / "main.c", str(folder / "sample_image.bin")), np.float32)
    expected = preprocess.apply({"image": raw})["image"]
    assert np.array_equal(found.view(np.int32), expected.reshape(-1).view(np.int32))


@pytest.mark.parametrize(
    ("change", "shape"),
    [
        ({}, (25, 32, 3)),
        ({}, (24, 32, 5)),
        ({"other_channels": "refuse", "resize": "stretch"}, (24, 32, 1)),
        ({"least": (16, 32)}, (15, 32, 3)),
    ],
)
def test_what_numpy_refuses_c_refuses(change: dict[str, Any], shape: tuple[int, int, int], tmp_path: Path) -> None:
    preprocess = replace(COLOUR, **change)
    folder = written(tmp_path, app_samples.ONNX, COLOUR, np.zeros((1, 24, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="a picture of 'image' must have"):
        preprocess.fitted(np.zeros(shape, np.uint8))
    constants = (folder / "model_values.h").read_text()
    size = ", ".join(map(str, shape))
    constants = constants.replace("{NULL, 24, 32, 3}", f"{{NULL, {size}}}")
    if "resize" in change:
        constants = constants.replace("OTHER_CHANNELS_CONVERT", "OTHER_CHANNELS_REFUSE")
        constants = constants.replace("RESIZE_NONE", "RESIZE_STRETCH")
    if "least" in change:
        constants = constants.replace("0, 0, 1,", "16, 32, 1,")
    (folder / "model_values.h").write_text(constants)
    (folder / "main.c").write_text(FIT)
    (folder / "sample_image.bin").write_bytes(bytes(int(np.prod(shape))))
    with pytest.raises(subprocess.CalledProcessError) as error:
        run_c(folder / "main.c", str(folder / "sample_image.bin"))
    assert error.value.returncode == 2


@pytest.mark.parametrize("scale", [0.0112044821, 0.5])  # with 0.5, every other value lies between two steps
def test_quantization_in_c_is_what_verified_the_file_bit_for_bit(scale: float, tmp_path: Path) -> None:
    port = Port(index=0, dtype=np.int8, scale=float(np.float32(scale)), zero_point=-51, channels_last=False)
    values = np.concatenate([np.linspace(-60, 60, 4801), [-1e9, 1e9, 0.25, -0.25]]).astype(np.float32)
    shutil.copy(app.TEMPLATES / "preprocess.h", tmp_path)
    (tmp_path / "main.c").write_text(QUANTIZE.replace("SCALE", f"{app.float32(scale)}f"))
    values.tofile(tmp_path / "values.bin")
    printed = run_c(tmp_path / "main.c", str(tmp_path / "values.bin"))
    quantized = np.frombuffer(printed[: len(values)], np.int8)
    assert np.array_equal(quantized, port.encode(values))
    found = np.frombuffer(printed[len(values) :], np.float32)
    assert np.array_equal(found.view(np.int32), port.decode(quantized).view(np.int32))


def test_constants_of_a_microcontroller_are_c_whatever_the_classes_are_called(tmp_path: Path) -> None:
    preprocess = ImagePreprocessing("image", height=5, width=5, channels=1, mean=(0.3,), std=(0.35,))
    raw = np.arange(25, dtype=np.uint8).reshape(1, 5, 5, 1)
    folder = written(tmp_path, app_samples.MICROCONTROLLER, preprocess, raw, micro_facts([1, 5, 5, 1], "NHWC"))
    (folder / "main.c").write_text(CONSTANTS)
    assert run_c(folder / "main.c").decode().split("\0")[:-1] == list(NAMES)


def test_the_microcontrollers_c_compiles_for_a_cortex_m(tmp_path: Path) -> None:
    cross = compiler("arm-none-eabi-gcc")
    preprocess = ImagePreprocessing("image", height=5, width=5, channels=1, mean=(0.3,), std=(0.35,))
    raw = np.zeros((1, 5, 5, 1), np.uint8)
    folder = written(tmp_path, app_samples.MICROCONTROLLER, preprocess, raw, micro_facts([1, 5, 5, 1], "NHWC"))
    (folder / "main.c").write_text('#include "model_values.h"\n#include "sample_values.h"\n')
    command = [cross, "-std=c99", "-mcpu=cortex-m4", "-mthumb", *STRICT, "-c", "main.c"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def test_operators_have_the_names_of_the_resolvers_methods() -> None:
    exceptional = {
        "AVERAGE_POOL_2D": "AddAveragePool2D",
        "BATCH_MATMUL": "AddBatchMatMul",
        "CUMSUM": "AddCumSum",
        "DEPTHWISE_CONV_2D": "AddDepthwiseConv2D",
        "PADV2": "AddPadV2",
        "UNIDIRECTIONAL_SEQUENCE_LSTM": "AddUnidirectionalSequenceLSTM",
    }
    assert exceptional.keys() <= tflite_micro.operators()
    assert {name: tflite_micro.resolver_method(name) for name in exceptional} == exceptional
    assert tflite_micro.resolver_method("BATCH_TO_SPACE_ND") == "AddBatchToSpaceNd"


# --- literals ------------------------------------------------------------------------------------------


def test_a_literal_is_read_back_as_the_same_float32() -> None:
    for value in (1, 0.3, 1 / 255, 1e-12, 3.0e38, -0.1):
        assert np.float32(app.float32(value)) == np.float32(value)
        assert "." in app.float32(value) or "e" in app.float32(value)


# --- whole releases ------------------------------------------------------------------------------------


@pytest.fixture
def released(store: ArtifactStore, checkpoint_file: Path, tmp_path: Path) -> Callable[..., Path]:
    """A released folder of one variant of the tiny model, for tests that build in it."""

    def make(variant: str, on: str, **changes: Any) -> Path:
        spec = replace(TINY, class_names=tuple("0123456789"), **changes)
        checkpoint = checkpoints.register(store, spec.name, str(checkpoint_file))
        family = FAMILIES[target(on).family]
        cell = Cell(spec, family, target(on), checkpoint, store, log=lambda _line: None)
        builts = {name: cell.build(name) for name in (CHECKPOINT, variant)}
        if builts[variant].facts.unavailable:
            pytest.skip(str(builts[variant].build.refused))
        artifact = Judgement(cell, builts, cell.measure(builts, "rapid")).release().artifact
        assert artifact is not None
        return Path(shutil.copytree(store.checkout(artifact), tmp_path / "released"))

    return make


@pytest.mark.slow
def test_the_cpp_sample_gives_the_numbers_of_python(released: Callable[..., Path], tmp_path: Path) -> None:
    folder = released("onnx_int8_static", "graviton3")
    listed = {file["path"]: file["sha256"] for file in json.loads((folder / "manifest.json").read_text())["files"]}
    assert listed["app/sample.cpp"] == sha256_of(folder / "app" / "sample.cpp")
    ort = onnxruntime(tmp_path / "onnxruntime")
    printed = run_onnx_sample(folder, ort)
    assert largest_differences(printed)["logits"] <= 1e-5
    with np.load(folder / "sample.npz") as sample:
        assert f"class: {sample['output_logits'].argmax()}\n" in printed
    pixels = folder / "app" / "sample_image.bin"
    pixels.write_bytes(bytes(reversed(pixels.read_bytes())))
    assert largest_differences(run_onnx_sample(folder, ort))["logits"] > 0.1, "other pixels give other outputs"


def test_a_photo_gives_the_same_by_infer_as_by_the_dataset_and_in_cpp(
    released: Callable[..., Path], tmp_path: Path
) -> None:
    """A wide picture, stored on its side with an orientation tag, for a model of 8 x 8 grey pixels."""
    preprocess = ImagePreprocessing("image", 8, 8, 1, (0.3,), (0.35,), resize="letterbox", filter="bicubic")
    data = {
        "calibration": Calibration(Dataset("tests.tiny.wide:calibration")),
        "evaluation": Evaluation(Dataset("tests.tiny.wide:evaluation"), minimum=500),
    }
    folder = released("onnx_model", "graviton3", preprocessing=preprocess, **data)
    upright = wide.evaluation()["image"][7]
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned to the right
    sideways = np.ascontiguousarray(upright.transpose(1, 0, 2)[::-1])
    Image.fromarray(sideways).save(tmp_path / "photo.png", exif=exif)
    printed = subprocess.run(
        [sys.executable, "infer.py", "--image", str(tmp_path / "photo.png")],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    file = json.loads((folder / "manifest.json").read_text())["file"]
    session = onnxruntime_python.InferenceSession(folder / file, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, preprocess.apply({"image": upright[None]}))
    assert np.array2string(logits[0], precision=4, threshold=16) in printed.stdout, printed.stderr
    assert largest_differences(run_onnx_sample(folder, onnxruntime(tmp_path / "onnxruntime")))["logits"] <= 1e-5
    wrong = subprocess.run(
        [sys.executable, "infer.py", "--image", "absent.png"], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert "absent.png" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_the_card_says_how_a_sample_is_built_and_what_of_it_was_tested(released: Callable[..., Path]) -> None:
    folder = released("litert_int8_full", "cortex-m4")
    card = (folder / "MODEL_CARD.md").read_text()
    assert "compile `micro_sample.cc` and `../litert_int8_full/model.cc` with the firmware" in card
    assert "- **Tested**: preprocessing, quantization and dequantization were compiled as C" in card
    constants = (folder / "app" / "model_values.h").read_text()
    assert "#define MODEL_DATA tiny_model" in constants
    assert "(resolver).AddConv2D();" in constants


def test_a_released_network_and_a_file_of_ones_own_become_the_same_c(
    released: Callable[..., Path], tmp_path: Path
) -> None:
    folder = released("litert_int8_full", "cortex-m4")
    model = folder / "litert_int8_full" / "model.tflite"
    run = CliRunner().invoke(main, ["c-code", str(folder), "--output", str(tmp_path / "released")])
    assert run.exit_code == 0, run.output
    assert "void tiny_invoke(const int8_t *image, int8_t *logits);\nconstants " in run.output
    own = CliRunner().invoke(main, ["c-code", str(model), "--output", str(tmp_path / "own"), "--symbol", "tiny"])
    assert own.exit_code == 0, own.output
    names = {"network.c", "network.h", "kernels.h"}
    assert {path.name for path in (tmp_path / "own").iterdir()} == names
    for name in names:
        assert (tmp_path / "own" / name).read_bytes() == (tmp_path / "released" / name).read_bytes()
    assert "void tiny_invoke(const int8_t *image, int8_t *logits);" in (tmp_path / "own" / "network.h").read_text()


def test_what_is_no_network_to_be_written_as_c_is_named(released: Callable[..., Path], tmp_path: Path) -> None:
    def said(*arguments: object) -> str:
        run = CliRunner().invoke(main, ["c-code", *map(str, arguments), "--output", str(tmp_path / "c")])
        assert run.exit_code == 1
        assert not (tmp_path / "c").exists()
        return run.output

    folder = shutil.copytree(released("litert_int8_full", "cortex-m4"), tmp_path / "copy")
    model = folder / "litert_int8_full" / "model.tflite"
    assert "'1st' is no name of a function in C: name it with --symbol" in said(model, "--symbol", "1st")
    with model.open("ab") as file:
        file.write(b"x")
    assert "model.tflite is not the released file any more" in said(folder)
    model.write_bytes(b"no model")
    assert "is no .tflite file: name one, or the folder of a microcontroller's release" in said(model)
    (folder / "manifest.json").unlink()
    assert "is no released folder of a microcontroller's target: name one, or a .tflite file" in said(folder)
