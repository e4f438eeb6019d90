"""int4 weights of matrix products and embeddings: blocks of 32 share a scale; activations stay in floating point.

onnx_int4       rounded to nearest (RTN), without data
onnx_int4_hqq   products by half-quadratic quantization (Badri and Shaji, 2023), without data; embeddings by RTN
onnx_int4_gptq  products by GPTQ on the calibration data, embeddings by RTN

ONNX Runtime computes them with MatMulNBits and GatherBlockQuantized.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edge_assets.core.scheme import Scheme
from edge_assets.core.session import CalibrationData
from edge_assets.core.variant import BuildRequest, in_depth
from edge_assets.errors import Refused
from edge_assets.hashing import Json
from edge_assets.toolchains.onnx import block_weights
from edge_assets.toolchains.onnx import export as onnx_format
from edge_assets.toolchains.onnx.block_weights import Blocks
from edge_assets.toolchains.onnx.gptq import hessians, products, round_weights
from edge_assets.toolchains.onnx.graph import replace_nodes
from edge_assets.toolchains.onnx.tables import unfit

if TYPE_CHECKING:
    import onnx

BLOCKS = Blocks(bits=4, size=32)


def build(request: BuildRequest) -> Mapping[str, Any]:
    """Quantize. Raises Refused as `quantize` does."""
    path = request.output / onnx_format.FILE
    count = quantize(request.source, path, request.parameters["method"], request.calibration)
    described = onnx_format.finish(path, request.source)
    return described | {"recipe": request.parameters["recipe"], "quantized_nodes": count}


def quantize(
    source: Path,
    path: Path,
    method: str,
    calibration: CalibrationData,
    exclude: Collection[str] = (),
) -> int:
    """Write `source` with int4 weights by "rtn", "hqq" or "gptq" to `path`; returns how many nodes have them.

    `exclude` names nodes that keep theirs. Raises Refused where products and embeddings hold too little of the model,
    or no node changed.
    """
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import HQQWeightOnlyQuantConfig

    block_weights.check_share(source, instead="onnx_int8_static")
    source = onnx_format.one_file(source, "the quantizer of weights, which has them in memory several times,")
    model = block_weights.split_gemm(onnx.load(source))
    # embeddings first, so that what comes after is fitted to what they really give
    model = block_weights.to_nearest(model, BLOCKS, ["Gather"], {*exclude, *unfit(model)})
    if method == "gptq":
        model = _gptq(model, path, calibration, exclude)
    elif method == "hqq":
        config = HQQWeightOnlyQuantConfig(block_size=BLOCKS.size, bits=BLOCKS.bits)
        model = block_weights.quantize(model, config, BLOCKS, exclude)
    else:
        model = block_weights.to_nearest(model, BLOCKS, ["MatMul"], exclude)
    onnx_format.save(model, path)
    count = block_weights.count(path)
    if not count:
        raise Refused("no node of this graph was changed, so the result would be fp32 under an int4 name")
    return count


def _gptq(
    model: "onnx.ModelProto",
    scratch: Path,
    calibration: CalibrationData,
    exclude: Collection[str],
) -> "onnx.ModelProto":
    """The model with GPTQ's int4 products; `scratch` is a file that may be written over."""
    import onnx

    weights = dict(products(model, BLOCKS.size))
    for name in exclude:
        weights.pop(name, None)
    onnx.save(model, scratch)
    inputs = {node.input[0] for node in model.graph.node if node.name in weights}
    curvature = hessians(scratch, calibration, sorted(inputs)) if inputs else {}
    nodes = []
    for node in model.graph.node:
        if node.name in weights:
            codes, scales, zeros = round_weights(weights[node.name], curvature[node.input[0]], BLOCKS.size)
            product, tensors = block_weights.product_node(node, codes, scales, zeros)
            model.graph.initializer.extend(tensors)
            nodes.append(product)
        else:
            nodes.append(node)
    replace_nodes(model, nodes)
    return block_weights.to_nearest(model, BLOCKS, ["MatMul"], exclude)  # those that no block cuts evenly


def recipe(method: Literal["rtn", "hqq", "gptq"]) -> dict[str, Json]:
    """What shapes the result."""
    scheme = Scheme(
        precision="int4",
        kind="weights",
        form="matmulnbits",
        weights="u4",
        block=BLOCKS.size,
        method=method,
    )
    return {"recipe": scheme.name, "method": method}


RTN = replace(
    onnx_format.FROM_MODEL,
    name="onnx_int4",
    description="int4 weights in blocks of 32 for matrix products and embeddings, rounded to nearest.",
    precision="int4",
    build=build,
    parameters=lambda _spec, _target: recipe("rtn"),
    code_version="4",
)
HQQ = replace(
    RTN,
    name="onnx_int4_hqq",
    description="int4 weights in blocks of 32, products by half-quadratic quantization, without calibration data.",
    parameters=lambda _spec, _target: recipe("hqq"),
    tools=("onnx", "onnxruntime", "torch"),
    offered=in_depth,
)
GPTQ = replace(
    RTN,
    name="onnx_int4_gptq",
    description="int4 weights in blocks of 32, products by GPTQ on the calibration data: the most accurate int4.",
    parameters=lambda _spec, _target: recipe("gptq"),
    needs=frozenset({"calibration"}),
    offered=in_depth,
)
