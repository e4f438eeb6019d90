"""The tiny model with two variants, for tests of what happens around them."""

from dataclasses import replace

from tests.tiny.spec import TINY

FEW = replace(TINY, variants=("onnx_model", "onnx_int8_static"))
