"""Remarks of libraries on what is done on purpose here: kept off the terminal and out of the runs' logs."""

import logging
import warnings
from functools import cache, partial

REMARKS = {
    "root": (  # ONNX Runtime's quantizer
        "Please consider to run pre-processing",  # the graph was prepared, as far as that works for it
        "is out-of-range for weight",  # one axis alone, as LayerNorm's weights have: quantized per tensor
        "16-bit/4-bit integer quantization types prior to opset 21",  # ONNX Runtime's own operators are meant
    ),
    "onnxruntime.quantization.matmul_nbits_quantizer": ("doesn't support int4 data type",),  # the same
    "torchao": ("Failed to load ",),  # its kernels for GPUs
    "torchao.kernel.intmm": ("Detected no triton",),
    "torch.utils._pytree": ("is now natively supported by torch.compile",),
}
# PyTorch's quantized sums and products, of operands that are broadcast to each other: once for every call
WARNINGS = ("An output with one or more elements was resized",)
# the pools of connections that Dagster and MLflow have
POOLS = ("sqlalchemy.pool.impl.NullPool", "sqlalchemy.pool.impl.QueuePool")


@cache
def silence() -> None:
    """Drop the known remarks in this process, and ONNX Runtime's progress; every other record passes."""
    for name, remarks in REMARKS.items():
        logging.getLogger(name).addFilter(partial(_is_news, remarks))
    for remark in WARNINGS:
        warnings.filterwarnings("ignore", message=remark)


@cache
def silence_interruptions() -> None:
    """Drop what connections to a database log when Ctrl-C meets them: the command says it itself, in one line."""
    for name in POOLS:
        logging.getLogger(name).addFilter(_is_no_interruption)


def _is_no_interruption(record: logging.LogRecord) -> bool:
    return record.exc_info is None or not isinstance(record.exc_info[1], KeyboardInterrupt)


def _is_news(remarks: tuple[str, ...], record: logging.LogRecord) -> bool:
    # importing ONNX Runtime's int4 quantizer sets the root logger to INFO
    progress = record.levelno < logging.WARNING and "onnxruntime" in record.pathname
    message = record.getMessage()
    return not progress and not any(remark in message for remark in remarks)
