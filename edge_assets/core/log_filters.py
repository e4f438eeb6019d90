"""Remarks of libraries on what is done on purpose here: kept off the terminal and out of the runs' logs."""

import logging
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


@cache
def silence() -> None:
    """Drop the known remarks in this process, and ONNX Runtime's progress; every other record passes."""
    for name, remarks in REMARKS.items():
        logging.getLogger(name).addFilter(partial(_is_news, remarks))


def _is_news(remarks: tuple[str, ...], record: logging.LogRecord) -> bool:
    # importing ONNX Runtime's int4 quantizer sets the root logger to INFO
    progress = record.levelno < logging.WARNING and "onnxruntime" in record.pathname
    message = record.getMessage()
    return not progress and not any(remark in message for remark in remarks)
