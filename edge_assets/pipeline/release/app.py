"""The folder `app/` of a release: a sample in the platform's language, this model's constants, and its sample's values.

sample.cpp ...          static sources, named by the runtime (`core/app_samples.py`)
model_values.h ...      names, shapes, types, class names, preprocessing and quantization, in the sample's language
sample_<input>.bin      what the sample runs on: pixels of a picture, samples of a sound, else the input as the model's
                        file takes it
expected_<output>.bin   what the released artifact gave for it

The `.bin` files are raw little-endian values; for a platform without a file system they are constants in a header.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from edge_assets import toolchains
from edge_assets.core.app_samples import AppSample, Language
from edge_assets.core.datasets.npz import Arrays
from edge_assets.core.session import Feeds
from edge_assets.core.sound_tables import tables_of
from edge_assets.spec import preprocess
from edge_assets.spec.preprocess import AudioPreprocessing, ImagePreprocessing

FOLDER = "app"
ONNX_FILE = "model.onnx"  # of a graph that has its weights beside it
TOOLCHAINS = Path(toolchains.__path__[0])
TEMPLATES = TOOLCHAINS / "native"
VALUES: Mapping[Language, str] = {"c": "model_values.h", "kotlin": "ModelValues.kt", "swift": "ModelValues.swift"}
SAMPLE_VALUES = "sample_values.h"
PER_LINE = 12  # values of a constant array
C_TYPES = {
    **{"float32": "float", "float64": "double"},
    **{"int16": "int16_t", "int32": "int32_t", "int64": "int64_t", "uint8": "uint8_t", "bool": "uint8_t"},
}
TYPES: Mapping[Language, tuple[str, ...]] = {  # that the samples know
    "c": ("float32", "int64", "int32", "uint8", "bool", "int8"),
    "kotlin": ("float32", "int64", "int32", "uint8", "bool"),
    "swift": ("float32", "int32"),
}
COMPUTE_UNITS = {  # coremltools' names -> Swift's
    "ALL": "all",
    "CPU_ONLY": "cpuOnly",
    "CPU_AND_GPU": "cpuAndGPU",
    "CPU_AND_NE": "cpuAndNeuralEngine",
}


@dataclass(frozen=True)
class AppTensor:
    """An input or output as the model's file has it, for one sample."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    channels_last: bool
    scale: float = 0.0  # of int8
    zero_point: int = 0

    @property
    def count(self) -> int:
        """Elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class ReleasedSample:
    """One sample of the evaluation data, as arrays by name with a batch of 1."""

    raw: Arrays  # as the dataset yields it
    inputs: Feeds  # preprocessed
    outputs: Feeds  # what the released artifact gave for them
    # the same as the file takes and gives it, in the first step, where that is not as samples are; else None
    query: "ReleasedSample | None" = None


def write(
    folder: Path,
    sample: AppSample,
    manifest: Mapping[str, Any],
    facts: Mapping[str, Any],
    values: ReleasedSample,
) -> None:
    """Write `app/` into the released folder. `facts` are those of the artifact's build."""
    app = folder / FOLDER
    app.mkdir()
    for source in sample.sources:
        shutil.copyfile(TOOLCHAINS / source, app / Path(source).name)
    stated = _stated(facts)
    inputs = _tensors(values.inputs, stated, sample)
    outputs = _tensors(values.outputs, stated, sample)
    image = _image(manifest["preprocessing"], inputs, values.raw)
    audio = _audio(manifest["preprocessing"], inputs, values.raw)
    in_folder = folder / manifest["file"] / ONNX_FILE
    constants = {
        **manifest,
        "file": f"{manifest['file']}/{ONNX_FILE}" if in_folder.is_file() else manifest["file"],
        "inputs": inputs,
        "outputs": outputs,
        "image": image,
        "audio": audio,
        "takes_picture": "image" in manifest["session"],
        "compute_units": COMPUTE_UNITS.get(manifest["session"].get("compute_units")),
        "micro": None if sample.has_files else _micro(facts),
    }
    _render(app / VALUES[sample.language], sample.language, constants)
    fed = _in_file(inputs, values.inputs)
    for declared in (image, audio):
        if declared is not None:
            fed[declared["input"]] = values.raw[declared["input"]]
    given = _in_file(outputs, values.outputs)
    if sample.has_files:
        _write_files(app, fed, given)
        return
    largest = max(tensor.count for tensor in (*inputs, *outputs))
    sound_scratch = None
    if audio is not None:
        sound_scratch = max(4 * (audio["n_fft"] or 0), 1)
        largest = max(largest, audio["value_count"])  # of a model that takes one step at a time
    arrays = {
        "inputs": fed,
        "outputs": given,
        "is_picture": image is not None,
        "scratch": _scratch(image),
        "sound_scratch": sound_scratch,
        "largest_count": largest,
    }
    _render(app / SAMPLE_VALUES, sample.language, arrays)


def reason_against(
    sample: AppSample,
    facts: Mapping[str, Any],
    values: ReleasedSample,
) -> str | None:
    """Why no sample can be written for this model, in words; None where one can."""
    stated = _stated(facts)
    for tensor in (*_tensors(values.inputs, stated, sample), *_tensors(values.outputs, stated, sample)):
        if tensor.dtype not in TYPES[sample.language]:
            return f"'{tensor.name}' is {tensor.dtype}, which the sample has no type for"
        if not tensor.shape:
            return f"'{tensor.name}' is a scalar, which the sample has no form for"
    return None


def _write_files(app: Path, fed: Feeds, given: Feeds) -> None:
    for name, array in fed.items():
        (app / f"sample_{name}.bin").write_bytes(_little_endian(array))
    for name, array in given.items():
        (app / f"expected_{name}.bin").write_bytes(_little_endian(array))


def _little_endian(array: np.ndarray) -> bytes:
    return array.astype(array.dtype.newbyteorder("<")).tobytes()


# --- the model's constants -----------------------------------------------------------------------------


def _stated(facts: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What the build read back from its file, by the tensor's name; nothing where the file has PyTorch's own types."""
    signature = facts.get("signature", {"inputs": [], "outputs": []})
    return {entry["name"]: entry for entry in (*signature["inputs"], *signature["outputs"])}


def _tensors(
    arrays: Feeds,
    stated: Mapping[str, Mapping[str, Any]],
    sample: AppSample,
) -> list[AppTensor]:
    """One sample's arrays as the file has them."""
    tensors = []
    for name, array in arrays.items():
        if entry := stated.get(name):
            tensors.append(_tensor_of(entry, array))
        elif sample.only_int32 and array.dtype.kind == "f":
            tensors.append(AppTensor(name, "float32", array.shape, channels_last=False))
        elif sample.only_int32:
            tensors.append(AppTensor(name, "int32", array.shape, channels_last=False))
        else:
            tensors.append(AppTensor(name, array.dtype.name, array.shape, channels_last=False))
    return tensors


def _tensor_of(entry: Mapping[str, Any], array: np.ndarray) -> AppTensor:
    """From what the build read back of its file."""
    channels_last = entry["layout"] == "NHWC"
    return AppTensor(
        name=entry["name"],
        dtype=entry["dtype"],
        shape=np.moveaxis(array, 1, -1).shape if channels_last else array.shape,
        channels_last=channels_last,
        scale=entry.get("scale", 0.0),
        zero_point=entry.get("zero_point", 0),
    )


def _in_file(tensors: Sequence[AppTensor], arrays: Feeds) -> Arrays:
    """Arrays in the file's layout and types; what the file has in int8 stays in float, for the app to quantize."""
    placed = {}
    for tensor in tensors:
        array = arrays[tensor.name]
        if tensor.channels_last:
            array = np.moveaxis(array, 1, -1)
        if tensor.dtype != "int8":
            array = array.astype(tensor.dtype)
        placed[tensor.name] = np.asarray(array, order="C")
    return placed


def _image(
    preprocessing: Mapping[str, Any],
    inputs: Sequence[AppTensor],
    raw: Arrays,
) -> dict[str, Any] | None:
    """How pictures become the model's input, or None for a model that takes none."""
    declared = preprocess.from_dict(preprocessing)
    if not isinstance(declared, ImagePreprocessing):
        return None
    tensor = next(tensor for tensor in inputs if tensor.name == declared.input)
    height, width = (0, 0)
    if declared.resize == "crop":
        height, width = declared.cropped_from
    least_height, least_width = declared.least or (0, 0)
    fill = declared.fill
    if len(fill) == 1:
        fill *= declared.channels
    return asdict(declared) | {
        "channels_last": tensor.channels_last,
        "resize_height": height,
        "resize_width": width,
        "least_height": least_height,
        "least_width": least_width,
        "fill": fill,
        "sample": list(raw[declared.input][0].shape),
    }


def _audio(
    preprocessing: Mapping[str, Any],
    inputs: Sequence[AppTensor],
    raw: Arrays,
) -> dict[str, Any] | None:
    """How a sound becomes the model's input, or None for a model that takes none."""
    declared = preprocess.from_dict(preprocessing)
    if not isinstance(declared, AudioPreprocessing):
        return None
    tensor = next(tensor for tensor in inputs if tensor.name == declared.input)
    axes = [*declared.axes]
    if tensor.channels_last:
        axes = [*axes[1:], axes[0]]
    sample = raw[declared.input][0]
    return asdict(declared) | {
        "tables": tables_of(declared),
        "time_first": axes.index("time") < axes.index("mel"),
        "value_count": declared.features(sample).size,
        "sample_count": len(sample),
        "sample_type": sample.dtype.name,
    }


def _scratch(image: Mapping[str, Any] | None) -> int | None:
    """Of the sample's picture, what `FIT_SCRATCH` of preprocess.h is; None for one that has the model's size."""
    if image is None or image["sample"] == [image["height"], image["width"], image["channels"]]:
        return None
    height, width, _channels = image["sample"]
    narrow = height * image["width"] * image["channels"]
    return int(4 * max(height, width) + 3 + (narrow + 3) // 4)


def _micro(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What TFLite Micro is told of a model: its array's symbol, the arena, and a method for each kind of operator."""
    from edge_assets.toolchains.litert import tflite_micro

    return {
        "symbol": facts["symbol"],
        "arena_bytes": facts["arena"]["total"],
        "operators": [tflite_micro.resolver_method(name) for name in facts["operators"]],
    }


# --- rendering -----------------------------------------------------------------------------------------


def _render(path: Path, language: Language, constants: Mapping[str, object]) -> None:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "text": _texts(language),
        "float32": float32,
        "float64": float64,
        "lines": _lines,
        "c_type": _c_type,
    }
    path.write_text(environment.get_template(f"{path.name}.jinja").render(**constants))


def float32(value: float) -> str:
    """A literal that every language reads back as the float32 nearest to `value`."""
    text = f"{np.float32(value):.9g}"
    return text if "." in text or "e" in text else f"{text}.0"


def float64(value: float) -> str:
    """A literal that every language reads back as the same double."""
    return repr(float(value))


def _texts(language: Language) -> Callable[[str], str]:
    """Writes a text as a string literal of that language."""
    escapes = {
        "c": lambda code: f"\\{code:03o}",
        "kotlin": lambda code: f"\\u{code:04x}",
        "swift": lambda code: f"\\u{{{code:x}}}",
    }
    special = {"c": '"\\?', "kotlin": '"\\$', "swift": '"\\'}[language]  # a ? in C could begin a trigraph

    def literal(text: str) -> str:
        written = []
        for character in text:
            if ord(character) < 32 or ord(character) == 127:
                written.append(escapes[language](ord(character)))
            elif character in special:
                written.append(f"\\{character}")
            else:
                written.append(character)
        return f'"{"".join(written)}"'

    return literal


def _c_type(array: np.ndarray) -> str:
    return C_TYPES[array.dtype.name]


def _lines(array: np.ndarray) -> list[str]:
    """An array's values as lines of C literals."""
    elements = []
    for value in array.reshape(-1).tolist():
        if array.dtype == np.float64:
            elements.append(float64(value))
        elif array.dtype.kind == "f":
            elements.append(f"{float32(value)}f")
        else:
            elements.append(str(int(value)))
    starts = range(0, len(elements), PER_LINE)
    return [", ".join(elements[start : start + PER_LINE]) for start in starts]
