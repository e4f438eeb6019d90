"""GPTQ: int4 weights rounded one input at a time, each rounding's error made up for by the weights still to come.

The recipe of Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers"
(2022), in blocks with a zero point. ONNX Runtime ships one too, but its error never reaches the other weights (it reads
the triangle of the Cholesky factor that is zero), so its result is that of rounding to nearest.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge_assets.core.session import Feeds
from edge_assets.toolchains.onnx.calibration import BATCH, MEMORY_BYTES, batches, fitting_batch

if TYPE_CHECKING:
    import onnx

DAMPING = 0.01  # of the mean of the Hessian's diagonal, as in the paper
CHUNK = 128  # inputs whose errors reach the rest of the weights at once, as in the paper
LARGEST = 15


def hessians(graph: Path, feeds: Feeds, tensors: Sequence[str], batch: int = BATCH) -> dict[str, np.ndarray]:
    """X^T X of each of `tensors`, float64 [channels, channels], over all rows that the samples give.

    One batch's activations are held at a time. Raises DataError if those of a single sample do not fit into memory.
    """
    import onnx
    import onnxruntime

    model = onnx.load(graph)
    outputs = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in outputs)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: dict[str, np.ndarray] = {}
    for one in batches(feeds, fitting_batch(graph, feeds, batch, MEMORY_BYTES)):
        for name, values in zip(tensors, session.run(list(tensors), one), strict=True):
            rows = values.reshape(-1, values.shape[-1])
            found[name] = found.get(name, 0) + (rows.T @ rows).astype(np.float64)
    return found


def round_weights(weights: np.ndarray, hessian: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes uint8 [inputs, outputs] in 0..15, scales float32 and zero points uint8 [inputs / size, outputs].

    `weights` [inputs, outputs], whose inputs `size` divides; `hessian` [inputs, inputs].
    """
    left, inputs = weights.astype(np.float64), len(weights)
    hessian = hessian.copy()
    dead = np.diag(hessian) == 0  # inputs that were always 0 teach nothing
    hessian[dead, dead] = 1
    hessian[np.diag_indices(inputs)] += DAMPING * np.mean(np.diag(hessian))
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T
    codes = np.zeros(weights.shape, np.uint8)
    scales = np.zeros((inputs // size, weights.shape[1]), np.float32)
    zeros = np.zeros(scales.shape, np.uint8)
    for start in range(0, inputs, CHUNK):
        end = min(inputs, start + CHUNK)
        errors = np.zeros((end - start, weights.shape[1]))
        for i in range(start, end):
            block = i // size
            if i % size == 0:
                scales[block], zeros[block] = _grid(left[i : i + size])
            scale, zero = scales[block].astype(np.float64), zeros[block]
            codes[i] = np.clip(np.round(left[i] / scale) + zero, 0, LARGEST)
            errors[i - start] = (left[i] - scale * (codes[i].astype(int) - zero)) / upper[i, i]
            left[i + 1 : end] -= np.outer(upper[i, i + 1 : end], errors[i - start])
        left[end:] -= upper[start:end, end:].T @ errors
    return codes, scales, zeros


def _grid(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point of each output for the values [size, outputs] of a block: 0 is always one of the 16."""
    least, most = np.minimum(block.min(axis=0), 0), np.maximum(block.max(axis=0), 0)
    scale = ((most - least) / LARGEST).astype(np.float32)
    scale[scale == 0] = 1
    return scale, np.clip(np.round(-least / scale), 0, LARGEST).astype(np.uint8)


def products(model: "onnx.ModelProto", size: int) -> Mapping[str, np.ndarray]:
    """Constant weights [inputs, outputs] of the MatMuls that `size` cuts evenly, by node name."""
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        tensor = tensors.get(node.input[1]) if node.op_type == "MatMul" else None
        if tensor is not None and len(tensor.dims) == 2 and tensor.dims[0] % size == 0:
            found[node.name] = numpy_helper.to_array(tensor)
    return found
