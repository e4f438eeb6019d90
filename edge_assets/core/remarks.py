"""Remarks of libraries on what is done on purpose here: kept off the terminal and out of the runs' logs."""

import logging
from functools import cache

REMARKS = (
    "Please consider to run pre-processing",  # the graph was prepared, as far as that works for it
    "is out-of-range for weight",  # one axis alone, as LayerNorm's weights have: quantized per tensor
    "16-bit/4-bit integer quantization types prior to opset 21",  # ONNX Runtime's own operators are meant
    "doesn't support int4 data type",  # the same
    "Failed to load ",  # torchao's kernels for GPUs
    "Detected no triton",
    "is now natively supported by torch.compile",
)
LOGGERS = (
    None,  # the root, which ONNX Runtime's quantizer logs to
    "onnxruntime.quantization.matmul_nbits_quantizer",
    "torchao",
    "torchao.kernel.intmm",
    "torch.utils._pytree",
)


@cache
def silence() -> None:
    """Drop the known remarks of these loggers in this process, and what is no warning; every other record passes."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return record.levelno >= logging.WARNING and not any(remark in message for remark in REMARKS)
