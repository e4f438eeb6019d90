"""LiteRT for phones and TFLite Micro for microcontrollers, from one conversion."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.handwritten.common import (
    Clock,
    Report,
    Run,
    Work,
    batches,
    call,
    cores,
    load_eager,
    one_by_one,
    sizes,
    verify,
)
from benchmarks.handwritten.measuring import Contestant, measure

ARENA = 64 * 2**20  # bytes that TFLite Micro may take here; what it takes is recorded
MICRO = "litert_int8_full"
ARENA_CODE = (
    "import sys; from tflite_micro.python.tflite_micro import runtime; "
    "i = runtime.Interpreter.from_file(sys.argv[1], arena_size=int(sys.argv[2])); i.invoke(); i.print_allocations()"
)


# --- conversions ---------------------------------------------------------------------------------------


def convert(work: Work) -> dict[str, Path]:
    """Every distinct file, by name, each from the fp32 one."""
    from ai_edge_quantizer import recipe

    names = ("litert_fp32", "litert_fp16", "litert_int8_dynamic", "litert_int4", "litert_int8_static", MICRO)
    files = {name: work.file(name, ".tflite") for name in names}
    source, images = files["litert_fp32"], work.array("calibration")
    convert_fp32(work.checkpoint, source)
    quantize(source, files["litert_fp16"], half_recipe())
    quantize(source, files["litert_int8_dynamic"], recipe.dynamic_wi8_afp32())
    quantize(source, files["litert_int4"], recipe.dynamic_wi4_afp32())
    quantize(source, files["litert_int8_static"], float_interface(recipe.static_wi8_ai8()), images)
    quantize(source, files[MICRO], recipe.static_wi8_ai8(), images)
    write_c_array(files[MICRO])
    return files


def convert_fp32(checkpoint: Path, path: Path) -> None:
    """The checkpoint with images in NHWC."""
    import litert_torch
    import torch

    model = litert_torch.to_channel_last_io(load_eager(checkpoint), args=[0])
    litert_torch.convert(model.eval(), (torch.rand(1, 32, 32, 1),)).export(str(path))


def half_recipe() -> Any:
    """Weights in half precision."""
    from ai_edge_quantizer import qtyping, recipe_manager
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    manager = recipe_manager.RecipeManager()
    manager.add_quantization_config(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        op_config=qtyping.OpQuantizationConfig(
            weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
            compute_precision=qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        ),
        algorithm_key=AlgorithmName.FLOAT_CASTING,
    )
    return manager.get_quantization_recipe()


def float_interface(recipe: Any) -> Any:
    """The same with inputs and outputs in fp32."""
    from ai_edge_quantizer import qtyping, recipe_manager
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(recipe)
    for edge in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        manager.add_quantization_config(".*", edge, algorithm_key=AlgorithmName.NO_QUANTIZE)
    return manager.get_quantization_recipe()


def quantize(source: Path, path: Path, recipe: Any, images: np.ndarray | None = None) -> None:
    """Apply a recipe, with ranges from the images' extremes where there are any."""
    from ai_edge_litert.tools import flatbuffer_utils
    from ai_edge_quantizer import quantizer

    ranges = None if images is None else observe(source, recipe, images)
    quantizer.Quantizer(str(source), recipe).quantize(ranges).export_model(str(path))
    model = flatbuffer_utils.read_model(str(path))
    for buffer in model.buffers:  # TFLite Micro cannot read weights from behind the flatbuffer
        buffer.offset = buffer.size = 0
    flatbuffer_utils.write_model(model, str(path))


def observe(source: Path, recipe: Any, images: np.ndarray) -> Any:
    """Every tensor's smallest and largest value."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer.calibrator import Calibrator
    from ai_edge_quantizer.recipe_manager import RecipeManager
    from ai_edge_quantizer.utils import qsv_utils

    ((key, signature),) = Interpreter(model_path=str(source)).get_signature_list().items()
    (name,) = signature["inputs"]
    manager = RecipeManager()
    manager.load_quantization_recipe(recipe)
    calibrator = Calibrator(str(source), num_threads=1, qsv_update_func=qsv_utils.min_max_update)
    calibrator.calibrate({key: [{name: image.transpose(0, 2, 3, 1)} for image in batches(images, 1)]}, manager)
    return calibrator.get_model_qsvs()


def write_c_array(path: Path) -> None:
    """The file as C source."""
    content = path.read_bytes()
    lines = [" ".join(f"0x{byte:02x}," for byte in content[i : i + 16]) for i in range(0, len(content), 16)]
    body = "\n".join(["alignas(16) const unsigned char digits_model[] = {", *lines, "};"])
    path.with_suffix(".cc").write_text(f"{body}\nconst unsigned int digits_model_len = {len(content)};\n")


# --- running -------------------------------------------------------------------------------------------


def import_runtime(_path: Path) -> None:
    """Import LiteRT's interpreter."""
    import ai_edge_litert.interpreter  # noqa: F401


def open_model(path: Path, threads: int) -> Run:
    """A file in LiteRT with XNNPACK, image by image."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    source, result = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(image: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(source, np.ascontiguousarray(image.transpose(0, 2, 3, 1)))
        interpreter.invoke()
        return interpreter.get_tensor(result)

    return one_by_one(run)


def open_micro(path: Path) -> Run:
    """A file in TFLite Micro's interpreter, which takes and gives int8."""
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_file(str(path), arena_size=ARENA)
    scale, zero = affine(interpreter.get_input_details(0))
    out_scale, out_zero = affine(interpreter.get_output_details(0))

    def run(image: np.ndarray) -> np.ndarray:
        quantized = np.clip(np.rint(image.transpose(0, 2, 3, 1) / scale) + zero, -128, 127)
        interpreter.set_input(np.ascontiguousarray(quantized, np.int8), 0)
        interpreter.invoke()
        return out_scale * (interpreter.get_output(0).astype(np.float32) - out_zero)

    return one_by_one(run)


def affine(details: dict[str, Any]) -> tuple[np.float32, int]:
    """Scale and zero point of a tensor."""
    found = details["quantization_parameters"]
    return np.float32(found["scales"][0]), int(found["zero_points"][0])


def arena_bytes(path: Path) -> int:
    """What TFLite Micro allocates for the file; its allocator only prints that, so in a process of its own."""
    command = [sys.executable, "-c", ARENA_CODE, str(path), str(ARENA)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = re.search(r"Arena allocation total (\d+) bytes", done.stdout + done.stderr)
    assert found
    return int(found[1])


def main(work: Work) -> Report:
    """Convert, verify, and take the memory that phones and microcontrollers would need."""
    clock = Clock()
    files = convert(work)
    clock.lap("conversion")
    data = [work.array(name) for name in ("test", "labels", "reference")]
    phones = {name: path for name, path in files.items() if name != MICRO}
    verified = {name: verify(open_model(path, cores()), *data) for name, path in phones.items()}
    verified[MICRO] = verify(open_micro(files[MICRO]), *data)
    clock.lap("verification")
    contestants = {name: Contestant("litert", path) for name, path in phones.items()}
    contestants["eager"] = Contestant("cpu", work.checkpoint)
    measured: dict[str, Any] = {
        f"{threads} threads": measure(contestants, work, threads)
        for threads in sorted({min(4, cores()), min(2, cores())})
    }
    measured[MICRO] = {"arena_bytes": arena_bytes(files[MICRO])}
    clock.lap("measurement")
    return {"artifacts": sizes(files), "verified": verified, "measured": measured, "phases": clock.seconds}


if __name__ == "__main__":
    call(main)
