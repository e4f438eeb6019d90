"""GPTQ: int4 weights rounded one input at a time, each rounding's error made up for by the weights still to come.

The recipe of Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers"
(2022), in blocks with a zero point. ONNX Runtime ships one too, but its error never reaches the other weights (it reads
the triangle of the Cholesky factor that is zero), so its result is that of rounding to nearest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge_assets.core.session import CalibrationData
from edge_assets.later import np
from edge_assets.toolchains.onnx.calibration import BATCH, MEMORY_BYTES, batches, fitting_batch
from edge_assets.toolchains.onnx.graph import initializers

if TYPE_CHECKING:
    import onnx

DAMPING = 0.01  # of the mean of the Hessian's diagonal, as in the paper
CHUNK = 128  # inputs whose errors reach the rest of the weights at once, as in the paper
LARGEST = 15


def hessians(
    graph: Path,
    data: CalibrationData,
    tensors: Sequence[str],
    batch: int = BATCH,
) -> dict[str, np.ndarray]:
    """X^T X of each of `tensors`, float64 [channels, channels], over all rows that the samples give.

    One batch's activations are held at a time. Raises DataError if those of a single sample do not fit into memory.
    """
    import onnx
    import onnxruntime

    model = onnx.load(graph)
    outputs = {value.name for value in model.graph.output}
    for name in tensors:
        if name not in outputs:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(),
        providers=["CPUExecutionProvider"],
    )
    found: dict[str, np.ndarray] = {}
    size = fitting_batch(graph, data, batch, MEMORY_BYTES)
    for one in batches(data, size):
        results = session.run(list(tensors), one)
        for name, values in zip(tensors, results, strict=True):
            rows = values.reshape(-1, values.shape[-1])
            product = (rows.T @ rows).astype(np.float64)
            found[name] = found.get(name, 0) + product
    return found


def round_weights(
    weights: np.ndarray,
    hessian: np.ndarray,
    size: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes uint8 [inputs, outputs] in 0..15, scales float32 and zero points uint8 [inputs / size, outputs].

    `weights` [inputs, outputs], whose inputs `size` divides; `hessian` [inputs, inputs].
    """
    inputs, outputs = weights.shape
    left = weights.astype(np.float64)
    upper = _error_factors(hessian)
    codes = np.zeros((inputs, outputs), np.uint8)
    scales = np.zeros((inputs // size, outputs), np.float32)
    zeros = np.zeros((inputs // size, outputs), np.uint8)
    for start in range(0, inputs, CHUNK):
        end = min(inputs, start + CHUNK)
        errors = np.zeros((end - start, outputs))
        for i in range(start, end):
            block = i // size
            if i % size == 0:
                scales[block], zeros[block] = _grid(left[i : i + size])
            scale = scales[block].astype(np.float64)
            zero = zeros[block]
            nearest = np.round(left[i] / scale) + zero
            codes[i] = np.clip(nearest, 0, LARGEST)
            rounded = scale * (codes[i].astype(int) - zero)
            error = (left[i] - rounded) / upper[i, i]
            errors[i - start] = error
            left[i + 1 : end] -= np.outer(upper[i, i + 1 : end], error)
        left[end:] -= upper[start:end, end:].T @ errors
    return codes, scales, zeros


def _error_factors(hessian: np.ndarray) -> np.ndarray:
    """The inverse Hessian's Cholesky factor, upper triangular [inputs, inputs]: how an input's error is made up for."""
    damped = hessian.copy()
    dead = np.diag(damped) == 0  # inputs that were always 0 teach nothing
    damped[dead, dead] = 1
    diagonal = np.diag_indices(len(damped))
    damped[diagonal] += DAMPING * np.mean(damped[diagonal])
    inverse = np.linalg.inv(damped)
    return np.linalg.cholesky(inverse).T


def _grid(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point of each output for the values [size, outputs] of a block: 0 is always one of the 16."""
    least = np.minimum(block.min(axis=0), 0)
    most = np.maximum(block.max(axis=0), 0)
    scale = ((most - least) / LARGEST).astype(np.float32)
    scale[scale == 0] = 1
    zero = np.clip(np.round(-least / scale), 0, LARGEST)
    return scale, zero.astype(np.uint8)


def products(model: onnx.ModelProto, size: int) -> Mapping[str, np.ndarray]:
    """Constant weights [inputs, outputs] of the MatMuls that `size` cuts evenly, by node name."""
    from onnx import numpy_helper

    tensors = initializers(model.graph)
    found = {}
    for node in model.graph.node:
        if node.op_type != "MatMul" or node.input[1] not in tensors:
            continue
        tensor = tensors[node.input[1]]
        is_matrix = len(tensor.dims) == 2
        if is_matrix and tensor.dims[0] % size == 0:
            found[node.name] = numpy_helper.to_array(tensor)
    return found
