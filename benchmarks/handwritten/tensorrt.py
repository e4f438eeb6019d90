"""TensorRT-RTX: engines ahead of time for the GPUs that it can name, a checked graph with a sample for the others."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.handwritten.common import Clock, Report, Work, call, cores, sizes, verify
from benchmarks.handwritten.cpu import halve_onnx, open_model, quantize_onnx
from benchmarks.handwritten.measuring import Contestant, measure

GIB = 2**30
WEIGHTED = ["Conv", "ConvTranspose", "MatMul", "Gemm"]
# compute capability, workspace, best and largest batch, precisions; the L4's are the RTX 4090's too
GPUS = {
    "t4": ("7.5", 2 * GIB, (8, 32), ("fp16", "int8")),
    "a100": ("8.0", 8 * GIB, (8, 32), ("fp32", "fp16", "int8")),
    "l4": ("8.9", 4 * GIB, (8, 32), ("fp32", "fp16", "int8")),
    "rtx-5090": ("12.0", 8 * GIB, (8, 32), ("fp32", "fp16", "int8")),
    "h100": ("9.0", 8 * GIB, (8, 32), ("fp32", "fp16", "int8")),
    "jetson-orin": ("8.7", 1 * GIB, (4, 4), ("fp32", "fp16", "int8")),
}


def quantize(work: Work, path: Path) -> None:
    """Static int8 as TensorRT wants it: symmetric, weighted operators' inputs alone, the rest in fp16."""
    options = {
        "ActivationSymmetric": True,
        "WeightSymmetric": True,
        "QuantizeBias": False,
        "OpTypesToExcludeOutputQuantization": WEIGHTED,
    }
    quantized = work.file("tensorrt_qdq", ".onnx")
    quantize_onnx(
        work.file("prepared", ".onnx"),
        quantized,
        work.array("calibration"),
        "int8",
        reduce_range=False,
        op_types_to_quantize=WEIGHTED,
        extra_options=options,
    )
    halve_onnx(quantized, path)


def write_sample(graph: Path, path: Path) -> None:
    """Inputs and the graph's outputs for them, to check an engine with on its GPU."""
    images = np.random.default_rng(0).random((2, 1, 32, 32), np.float32)
    np.savez(path, input_image=images, output_logits=open_model(graph, 1)(images))


def build(graph: Path, folder: Path, capability: str, workspace: int, batches: tuple[int, int]) -> None:
    """The engine beside its graph; the graph alone, once it was parsed, for a GPU that the builder cannot name."""
    import tensorrt_rtx

    folder.mkdir()
    shutil.copyfile(graph, folder / "model.onnx")
    shutil.copyfile(graph.with_suffix(".npz"), folder / "sample.npz")
    logger = tensorrt_rtx.Logger(tensorrt_rtx.Logger.ERROR)
    builder = tensorrt_rtx.Builder(logger)
    network = builder.create_network(0)
    parser = tensorrt_rtx.OnnxParser(network, logger)
    assert parser.parse(graph.read_bytes())
    name = f"SM{capability.replace('.', '')}"
    if name not in tensorrt_rtx.ComputeCapability.__members__:
        return
    config = builder.create_builder_config()
    config.set_memory_pool_limit(tensorrt_rtx.MemoryPoolType.WORKSPACE, workspace)
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(tensorrt_rtx.ComputeCapability, name), 0)
    profile = builder.create_optimization_profile()
    profile.set_shape("image", *((batch, 1, 32, 32) for batch in (1, *batches)))
    config.add_optimization_profile(profile)
    (folder / "model.engine").write_bytes(bytes(builder.build_serialized_network(network, config)))


def convert(work: Work) -> dict[str, Path]:
    """The int8 graph, and every GPU's engines, by name."""
    quantized = work.file("onnx_int8_tensorrt", ".onnx")
    graphs = {"fp32": work.file("onnx_model", ".onnx"), "fp16": work.file("onnx_fp16", ".onnx"), "int8": quantized}
    quantize(work, quantized)
    files = {"onnx_int8_tensorrt": quantized}
    for graph in graphs.values():
        write_sample(graph, graph.with_suffix(".npz"))
    for gpu, (capability, workspace, batches, precisions) in GPUS.items():
        for precision in precisions:
            name = f"tensorrt_engine_{precision} {gpu}"
            files[name] = work.file(name, "")
            build(graphs[precision], files[name], capability, workspace, batches)
    return files


def main(work: Work) -> Report:
    """Convert; verify the int8 graph, since the other two are `cpu`'s; take eager's memory, the host's alone."""
    clock = Clock()
    files = convert(work)
    clock.lap("conversion")
    run = open_model(files["onnx_int8_tensorrt"], cores())
    verified: dict[str, Any] = {
        "onnx_int8_tensorrt": verify(run, *(work.array(name) for name in ("test", "labels", "reference")))
    }
    clock.lap("verification")
    measured = measure({"eager": Contestant("cpu", work.checkpoint)}, work, threads=1)
    clock.lap("measurement")
    return {"artifacts": sizes(files), "verified": verified, "measured": measured, "phases": clock.seconds}


if __name__ == "__main__":
    call(main)
