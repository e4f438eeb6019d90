"""ExecuTorch: programs for XNNPACK, run here; for Vulkan and for CoreML, which no runtime here has."""

from dataclasses import replace
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

RELEASES = ("iOS16", "iOS17", "iOS18")  # macOS 15 takes the program of iOS 18
SMALLEST_SCALE = 2**-12  # XNNPACK's kernels lose precision below
RUNNABLE = ("executorch_fp32", "executorch_int8_static")


def export(model: Any) -> Any:
    """An ATen graph for one image."""
    import torch

    return torch.export.export(model, (torch.rand(1, 1, 32, 32),), strict=False)


def lower(exported: Any, partitioners: list[Any], path: Path) -> None:
    """Write the program, its operators taken by the partitioners' backends. It rewrites the graph."""
    from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower

    config = EdgeCompileConfig(_check_ir_validity=False)
    edge = to_edge_transform_and_lower(exported, partitioner=partitioners, compile_config=config)
    path.write_bytes(edge.to_executorch(ExecutorchBackendConfig(extract_delegate_segments=True)).buffer)


def quantize(model: Any, images: np.ndarray) -> Any:
    """Static int8 by PT2E: activations per tensor, weights per channel, ranges from the images' extremes."""
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e import MinMaxObserver
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    config = get_symmetric_quantization_config(is_per_channel=True)
    observer = MinMaxObserver.with_args(eps=SMALLEST_SCALE)
    activation = replace(config.input_activation, observer_or_fake_quant_ctr=observer)
    config = replace(config, input_activation=activation, output_activation=activation)
    prepared = prepare_pt2e(export(model).module(), XNNPACKQuantizer().set_global(config))
    with torch.inference_mode():
        for image in batches(images, 1):
            prepared(torch.from_numpy(image))
        return convert_pt2e(prepared)


def coreml_partitioner(release: str) -> Any:
    """CoreML in fp16, from that release on."""
    import coremltools as ct
    from executorch.backends.apple.coreml.compiler import CoreMLBackend
    from executorch.backends.apple.coreml.partition import CoreMLPartitioner

    specs = CoreMLBackend.generate_compile_specs(
        compute_precision=ct.precision.FLOAT16, minimum_deployment_target=ct.target[release]
    )
    return CoreMLPartitioner(compile_specs=specs)


def convert(work: Work) -> dict[str, Path]:
    """Every distinct program, by name."""
    from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner
    from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    floats = {"executorch_fp32": XnnpackPartitioner(), "executorch_vulkan": VulkanPartitioner()}
    floats |= {f"executorch_coreml {release}": coreml_partitioner(release) for release in RELEASES}
    files = {name: work.file(name, ".pte") for name in (*floats, "executorch_int8_static")}
    for name, partitioner in floats.items():
        lower(export(load_eager(work.checkpoint)), [partitioner], files[name])
    quantized = quantize(load_eager(work.checkpoint), work.array("calibration"))
    static = XnnpackPartitioner(config_precisions=ConfigPrecisionType.STATIC_QUANT, per_op_mode=False)
    lower(export(quantized), [static, XnnpackPartitioner()], files["executorch_int8_static"])
    return files


def open_model(path: Path, threads: int) -> Run:
    """A program in ExecuTorch's runtime, image by image."""
    import executorch.kernels.quantized  # noqa: F401  # registers what a partly delegated int8 graph needs
    import torch
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
    from executorch.runtime import Runtime

    _unsafe_reset_threadpool(threads)
    program = Runtime.get().load_program(path)
    method = program.load_method("forward")

    def run(image: np.ndarray, _program: Any = program) -> np.ndarray:  # which the method does not keep alive
        return method.execute([torch.from_numpy(image)])[0].numpy().copy()

    return one_by_one(run)


def main(work: Work) -> Report:
    """Convert and verify. Nothing to measure: ExecuTorch's binding here loads PyTorch, which no device does."""
    clock = Clock()
    files = convert(work)
    clock.lap("conversion")
    data = [work.array(name) for name in ("test", "labels", "reference")]
    verified = {name: verify(open_model(files[name], cores()), *data) for name in RUNNABLE}
    clock.lap("verification")
    return {"artifacts": sizes(files), "verified": verified, "phases": clock.seconds}


if __name__ == "__main__":
    call(main)
