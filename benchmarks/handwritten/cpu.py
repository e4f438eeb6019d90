"""ONNX Runtime and PyTorch: the nine distinct files that the four CPU targets need, and eager's logits."""

from collections.abc import Iterator
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
    evaluate,
    load_eager,
    sizes,
    verify,
)
from benchmarks.handwritten.measuring import Contestant, measure

OPSET = 20
CALIBRATION_BATCH = 32
# activations, reduced range
ONNX_INT8 = {"u8s8": ("uint8", False), "u8s8_reduced": ("uint8", True), "s8s8": ("int8", False)}
# engine, reduced range
TORCH_INT8 = {"x86": ("x86", False), "x86_reduced": ("x86", True), "qnnpack": ("qnnpack", False)}
SWEEP = (1, 8, 32)


def import_runtime(path: Path) -> None:
    """Import what runs a file of this kind."""
    if path.suffix == ".onnx":
        import onnxruntime  # noqa: F401
    else:
        import torch  # noqa: F401


def open_model(path: Path, threads: int) -> Run:
    """A function that runs an ONNX file, a TorchScript file or the checkpoint."""
    if path.suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda images: session.run(["logits"], {"image": images})[0]
    import torch

    torch.set_num_threads(threads)
    if path.suffix == ".pt":
        torch.backends.quantized.engine = "qnnpack" if "qnnpack" in path.name else "x86"
        model: torch.nn.Module = torch.jit.load(path).eval()
    else:
        model = load_eager(path)

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(images)).numpy()

    return run


# --- conversions ---------------------------------------------------------------------------------------


def export_onnx(checkpoint: Path, path: Path) -> None:
    """The checkpoint as ONNX with a dynamic batch."""
    import onnx
    import torch

    program = torch.onnx.export(
        load_eager(checkpoint),
        (torch.rand(2, 1, 32, 32),),
        input_names=["image"],
        output_names=["logits"],
        opset_version=OPSET,
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )
    assert program is not None
    onnx.checker.check_model(program.model_proto, full_check=True)
    onnx.save(program.model_proto, path)


def optimize_onnx(source: Path, path: Path) -> None:
    """Operators fused ahead of time, at the highest level that is portable."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def halve_onnx(source: Path, path: Path) -> None:
    """fp16 inside, fp32 at the inputs and outputs."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = OnnxModel(convert_float_to_float16(onnx.load(source), keep_io_types=True))
    model.topological_sort()  # the converter appends its Casts at the end
    onnx.checker.check_model(model.model, full_check=True)
    onnx.save(model.model, path)


class CalibrationReader:
    """What quantize_static iterates over."""

    def __init__(self, images: np.ndarray) -> None:
        self.batches: Iterator[np.ndarray] = batches(images, CALIBRATION_BATCH)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, or None at the end."""
        batch = next(self.batches, None)
        return None if batch is None else {"image": batch}


def quantize_onnx(
    prepared: Path, path: Path, images: np.ndarray, activations: str, reduce_range: bool, **options: Any
) -> None:
    """Static int8 in QDQ form, per channel, with ranges from the calibration images' extremes."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    quantize_static(
        prepared,
        path,
        CalibrationReader(images),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=reduce_range,
        activation_type=QuantType.QUInt8 if activations == "uint8" else QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        **options,
    )


def quantize_torch(checkpoint: Path, path: Path, images: np.ndarray, engine: str, reduce_range: bool) -> None:
    """Static int8 by FX graph mode quantization, traced to TorchScript."""
    import torch
    from torch.ao.quantization import QConfig, get_default_qconfig_mapping, observer
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    torch.backends.quantized.engine = engine
    activation = observer.MinMaxObserver.with_args(dtype=torch.quint8, reduce_range=reduce_range)
    weight = observer.PerChannelMinMaxObserver.with_args(dtype=torch.qint8, qscheme=torch.per_channel_symmetric)
    mapping = get_default_qconfig_mapping(engine).set_global(QConfig(activation, weight))
    example = (torch.rand(2, 1, 32, 32),)
    with torch.inference_mode():
        prepared = prepare_fx(load_eager(checkpoint), mapping, example)
        for batch in batches(images, CALIBRATION_BATCH):
            prepared(torch.from_numpy(batch))
        traced = torch.jit.trace(convert_fx(prepared), example, check_trace=False)
        torch.jit.save(torch.jit.freeze(traced.eval()), path)


def convert(work: Work) -> dict[str, Path]:
    """Every distinct file, by name."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    images = work.array("calibration")
    onnx_names = ("onnx_model", "onnx_optimized", "onnx_fp16", *(f"onnx_int8_static {name}" for name in ONNX_INT8))
    files = {name: work.file(name, ".onnx") for name in onnx_names}
    files |= {f"torch_int8 {name}": work.file(f"torch_int8 {name}", ".pt") for name in TORCH_INT8}
    source, prepared = files["onnx_model"], work.file("prepared", ".onnx")
    export_onnx(work.checkpoint, source)
    optimize_onnx(source, files["onnx_optimized"])
    halve_onnx(source, files["onnx_fp16"])
    quant_pre_process(source, prepared)
    for flavour, (activations, reduce_range) in ONNX_INT8.items():
        quantize_onnx(prepared, files[f"onnx_int8_static {flavour}"], images, activations, reduce_range)
    for flavour, (engine, reduce_range) in TORCH_INT8.items():
        quantize_torch(work.checkpoint, files[f"torch_int8 {flavour}"], images, engine, reduce_range)
    return files


# --- verification and measurement ----------------------------------------------------------------------


def verify_all(files: dict[str, Path], work: Work) -> dict[str, Any]:
    """Accuracy and parity by name, against PyTorch eager in fp32, whose logits are saved."""
    images, labels = work.array("test"), work.array("labels")
    reference = evaluate(open_model(work.checkpoint, cores()), images)
    np.save(work.output / "reference.npy", reference)
    return {name: verify(open_model(path, cores()), images, labels, reference) for name, path in files.items()}


def measure_targets(files: dict[str, Path], work: Work) -> dict[str, Any]:
    """Timings on this machine's target, and memory for the three targets that are not at hand."""
    local, other = ("u8s8", "u8s8_reduced") if has_vnni() else ("u8s8_reduced", "u8s8")
    portable = {"eager": work.checkpoint} | {n: files[n] for n in ("onnx_model", "onnx_optimized", "onnx_fp16")}

    def contestants(flavour: str, engine: str) -> dict[str, Contestant]:
        names = (f"onnx_int8_static {flavour}", f"torch_int8 {engine}")
        mine = portable | {name: files[name] for name in names}
        return {name: Contestant("cpu", path) for name, path in mine.items()}

    arm = contestants("s8s8", "qnnpack")
    return {
        "local": measure(contestants(local, local.replace("u8s8", "x86")), work, threads=1, sweep=SWEEP),
        "other_x86": measure(contestants(other, other.replace("u8s8", "x86")), work, threads=1),
        "raspberry_pi": measure(arm, work, threads=min(4, cores())),
        "graviton": measure(arm, work, threads=1),
    }


def has_vnni() -> bool:
    """Whether this x86-64 machine has VNNI, which decides the flavour of int8."""
    flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    return "avx512_vnni" in flags or "avx_vnni" in flags


def main(work: Work) -> Report:
    """Convert, verify, measure."""
    clock = Clock()
    files = convert(work)
    clock.lap("conversion")
    verified = verify_all(files, work)
    clock.lap("verification")
    measured = measure_targets(files, work)
    clock.lap("measurement")
    return {"artifacts": sizes(files), "verified": verified, "measured": measured, "phases": clock.seconds}


if __name__ == "__main__":
    call(main)
