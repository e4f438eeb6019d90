"""Static int8 in QDQ form: weights and activations quantized ahead of time, ranges observed on calibration data.

The flavour is the target's: U8S8 per channel on x86-64, with 7-bit weights (reduced range) where there is no
VNNI, S8S8 on ARM.
"""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_assets.core.errors import Refused
from edge_assets.core.formats import onnx as onnx_format
from edge_assets.core.quantization.graph import quantized_nodes
from edge_assets.core.variant import BuildRequest, Feeds, Variant

if TYPE_CHECKING:
    from edge_assets.model import ModelSpec
    from edge_assets.targets import Target

CALIBRATION_BATCH = 32


class BatchReader:
    """ONNX Runtime's CalibrationDataReader over arrays in memory, one batch at a time."""

    def __init__(self, feeds: Feeds, batch: int = CALIBRATION_BATCH) -> None:
        self.batches: Iterator[dict[str, np.ndarray]] = batches(feeds, batch)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, or None at the end."""
        return next(self.batches, None)


def batches(feeds: Feeds, size: int) -> Iterator[dict[str, np.ndarray]]:
    """`feeds` cut along axis 0 into batches of at most `size`."""
    count = len(next(iter(feeds.values())))
    for start in range(0, count, size):
        yield {name: array[start : start + size] for name, array in feeds.items()}


def build(request: BuildRequest) -> Mapping[str, Any]:
    """Calibrate and quantize. Raises Refused if no node changed."""
    path = request.output / onnx_format.FILE
    facts = quantize(request, path)
    return onnx_format.describe(path) | facts


def quantize(request: BuildRequest, path: Path, **options: Any) -> dict[str, Any]:
    """Write the quantized graph to `path`; `options` are ONNX Runtime's. Raises Refused if no node changed."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    types = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}
    methods = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }
    parameters = request.parameters
    feeds = request.calibration()
    with tempfile.TemporaryDirectory() as scratch:
        prepared = prepare(request.source, Path(scratch))
        quantize_static(
            prepared,
            path,
            BatchReader(feeds),
            quant_format=QuantFormat.QDQ,
            per_channel=parameters["per_channel"],
            reduce_range=parameters["reduce_range"],
            activation_type=types[parameters["activations"]],
            weight_type=types[parameters["weights"]],
            calibrate_method=methods[parameters["method"]],
            **options,
        )
    if not (count := quantized_nodes(path)):
        raise Refused("no node of this graph was changed, so the result would be fp32 under an int8 name")
    samples = len(next(iter(feeds.values())))
    return {"recipe": parameters["recipe"], "quantized_nodes": count, "calibration_samples": samples}


def prepare(source: Path, scratch: Path) -> Path:
    """Shapes inferred and operators fused, as calibration and the quantizer want their input.

    Without symbolic shape inference: it gives up on graphs with computed shapes, such as BERT's, and the quantizer
    reads types and ranks only.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = scratch / "prepared.onnx"
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    return prepared


def parameters(spec: "ModelSpec", target: "Target") -> dict[str, Any]:
    """The target's flavour and the model's calibration method."""
    flavour = target.quantization
    granularity = "perchannel" if flavour.per_channel else "pertensor"
    reduced = "_reducedrange" if flavour.reduce_range else ""
    method = spec.calibration.method
    return {
        "recipe": f"int8_static_qdq_{flavour.flavour.lower()}_{granularity}{reduced}_{method}",
        "activations": flavour.activations,
        "weights": flavour.weights,
        "per_channel": flavour.per_channel,
        "reduce_range": flavour.reduce_range,
        "method": method,
        "batch": CALIBRATION_BATCH,
    }


VARIANT = Variant(
    name="onnx_int8_static",
    description="Calibrated int8 in QDQ form, in the flavour that the target's kernels are fast with.",
    format="onnx",
    precision="int8",
    source=onnx_format.MODEL.name,
    runtime="onnx",
    build=build,
    parameters=parameters,
    code_version="1",
    tools=("onnx", "onnxruntime"),
    kinds=("onnx",),
    calibrated=True,
    mlflow_flavor="onnx",
)
