"""The tiny model on a board that is this machine over SSH, registered through EDGE_ASSETS_MODELS."""

from dataclasses import replace

from tests.tiny.spec import TINY

BOARDED = replace(TINY, name="boarded", targets=("bench-board",), variants=("onnx_model", "torch_int8"))
