"""The browser family: ONNX Runtime Web on WebAssembly or WebGPU, and the bundle that ships with the winner."""

from dataclasses import replace

from edge_assets.core.variant import Variant
from edge_assets.families.family import Family
from edge_assets.toolchains.onnx import export as onnx_format
from edge_assets.toolchains.onnx import float16, int4_weights, int8_dynamic, int8_static
from edge_assets.toolchains.web import bundle as web_bundle


def _in_browser(variant: Variant) -> Variant:
    """The same build, opened by the browser's runtime: the store shares it with other families."""
    return replace(variant, runtime="ort_web", process="browser")


BROWSER = Family(
    name="browser",
    description="Browsers that run ONNX Runtime Web or Transformers.js",
    variants=(
        _in_browser(onnx_format.MODEL),
        _in_browser(float16.VARIANT),
        _in_browser(int8_static.VARIANT),
        _in_browser(int8_dynamic.VARIANT),
        _in_browser(int4_weights.RTN),
        web_bundle.VARIANT,
    ),
    package=web_bundle.VARIANT.name,
)
