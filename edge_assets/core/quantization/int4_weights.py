"""int4 weights of matrix products: blocks of 32 values share a scale; activations stay in floating point.

Rounded to nearest (RTN), without calibration data. ONNX Runtime computes them with MatMulNBits, which has no form
for convolutions: a graph that keeps most of its weights there is refused instead of being shipped nearly unchanged.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_assets.core.errors import Refused
from edge_assets.core.formats import onnx as onnx_format
from edge_assets.core.quantization.graph import weight_elements
from edge_assets.core.variant import BuildRequest, Variant

if TYPE_CHECKING:
    import onnx

BLOCK = 32
LEAST_SHARE = 0.5  # of the graph's weights that must be in matrix products


def build(request: BuildRequest) -> Mapping[str, Any]:
    """Quantize matrix products. Raises Refused where they hold too little of the model, or none was changed."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    held = weight_elements(request.source)
    share = (held["MatMul"] + held["Gemm"]) / max(1, held.total())
    if share < LEAST_SHARE:
        raise Refused(
            f"matrix products hold {100 * share:.0f} % of the weights (at least {100 * LEAST_SHARE:.0f} % needed), and "
            f"MatMulNBits, ONNX Runtime's int4 operator, has no form for convolutions. Use onnx_int8_static."
        )
    config = DefaultWeightOnlyQuantConfig(block_size=request.parameters["block"], is_symmetric=True)
    model = split_gemm(onnx.load(request.source))
    quantizer = MatMulNBitsQuantizer(model, block_size=request.parameters["block"], algo_config=config)
    quantizer.process()
    path = request.output / onnx_format.FILE
    onnx_format.save(quantizer.model.model, path)
    if not (count := int4_nodes(path)):
        raise Refused("no node of this graph was changed, so the result would be fp32 under an int4 name")
    return onnx_format.describe(path) | {"recipe": request.parameters["recipe"], "quantized_nodes": count}


def split_gemm(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Linear layers as MatMul and Add, which is what the quantizer looks for; other Gemms stay."""
    from onnx import helper, numpy_helper

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        options = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        plain = options.get("alpha", 1) == 1 and options.get("beta", 1) == 1 and not options.get("transA", 0)
        if node.op_type != "Gemm" or not plain or node.input[1] not in tensors:
            nodes.append(node)
            continue
        weights = numpy_helper.to_array(tensors[node.input[1]])
        name = f"{node.output[0]}_weights"
        model.graph.initializer.append(
            numpy_helper.from_array((weights.T if options.get("transB", 0) else weights).copy(), name)
        )
        product = f"{node.output[0]}_product" if len(node.input) > 2 else node.output[0]
        nodes.append(helper.make_node("MatMul", [node.input[0], name], [product], name=f"{node.name}_matmul"))
        if len(node.input) > 2:
            nodes.append(helper.make_node("Add", [product, node.input[2]], [node.output[0]], name=f"{node.name}_bias"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def int4_nodes(path: Path) -> int:
    """How many nodes compute with int4 weights."""
    import onnx

    return sum(node.op_type == "MatMulNBits" for node in onnx.load(path, load_external_data=False).graph.node)


VARIANT = Variant(
    name="onnx_int4",
    description="int4 weights in blocks of 32 for matrix products; for graphs made of them, such as transformers.",
    format="onnx",
    precision="int4",
    source=onnx_format.MODEL.name,
    runtime="onnx",
    build=build,
    parameters=lambda _spec, _target: {"recipe": f"int4_weights_matmulnbits_s4_block{BLOCK}_rtn", "block": BLOCK},
    code_version="1",
    tools=("onnx", "onnxruntime"),
    kinds=("onnx",),
    mlflow_flavor="onnx",
)
