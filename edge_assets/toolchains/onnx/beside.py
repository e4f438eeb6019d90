"""Weights that lie beside their graph because no single file holds them, read and written one tensor at a time.

What quantizes or converts such a graph must not have all of its weights in memory, and libraries that do have them
there several times.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from edge_assets.hashing import Json
from edge_assets.later import np
from edge_assets.toolchains.onnx.block_weights import attributes, is_linear
from edge_assets.toolchains.onnx.graph import drop_unused, initializers, replace_nodes
from edge_assets.toolchains.onnx.tables import quantize_rows

if TYPE_CHECKING:
    import onnx

ALIGNMENT = 4096  # bytes, so that a runtime can map a tensor from the file
INLINE_BYTES = 1024  # of tensors that stay in the graph's own file: shapes and axes are read without the weights


def read(folder: Path) -> onnx.ModelProto:
    """The graph in a folder, without the weights beside it: their tensors are empty, and still say where they lie."""
    import onnx

    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.ClearField("data_location")  # shape inference would look for the file
    return model


def write(model: onnx.ModelProto, source: Path, path: Path) -> None:
    """Write a graph whose weights lie partly in the folder `source` and partly in itself, all of them beside it.

    A weight of `source` whose tensor is declared float16 here is converted on its way.
    """
    import onnx

    with path.with_name(f"{path.name}.data").open("wb") as data:
        for tensor in model.graph.initializer:
            if _is_outside(tensor):
                array = _read(tensor, source)
                if tensor.data_type == onnx.TensorProto.FLOAT16:
                    array = _halved(array)
                _put(tensor, array, data, data.name)
            elif len(tensor.raw_data) >= INLINE_BYTES:
                _put(tensor, onnx.numpy_helper.to_array(tensor), data, data.name)
    onnx.save(model, path)


def halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph in half precision, its weights declared so: `write` converts them."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    inferred = onnx.shape_inference.infer_shapes(model)
    shapes = {}
    for tensor in inferred.graph.initializer:
        if _is_outside(tensor):  # the converter takes a tensor's shape from its numbers
            shapes[tensor.name] = list(tensor.dims)
            tensor.dims[:] = [0]
            tensor.raw_data = b""
    converted: onnx.ModelProto = convert_float_to_float16(
        inferred,
        keep_io_types=True,
        disable_shape_infer=True,
    )
    for tensor in converted.graph.initializer:
        if tensor.name in shapes:
            tensor.dims[:] = shapes[tensor.name]
            tensor.ClearField("raw_data")
    kept = [value for value in converted.graph.value_info if value.name not in shapes]
    del converted.graph.value_info[:]
    converted.graph.value_info.extend(kept)
    return converted


def _is_outside(tensor: onnx.TensorProto) -> bool:
    return len(tensor.external_data) > 0


def _read(tensor: onnx.TensorProto, folder: Path) -> np.ndarray:
    """A weight as the source has it: in float32 where it is only declared to be float16 by now."""
    import onnx
    from onnx.helper import tensor_dtype_to_np_dtype

    if not _is_outside(tensor):
        return onnx.numpy_helper.to_array(tensor)
    place = {entry.key: entry.value for entry in tensor.external_data}
    kept = np.dtype(tensor_dtype_to_np_dtype(tensor.data_type))
    elements = int(np.prod(tensor.dims))
    has_float32_bytes = int(place["length"]) == 4 * elements
    if tensor.data_type == onnx.TensorProto.FLOAT16 and has_float32_bytes:
        kept = np.dtype(np.float32)
    return np.memmap(
        folder / place["location"],
        dtype=kept,
        mode="r",
        offset=int(place.get("offset", 0)),
        shape=tuple(tensor.dims),
    )


def _halved(array: np.ndarray) -> np.ndarray:
    """As ONNX Runtime's converter of graphs in one file does it."""
    from onnxruntime.transformers.float16 import convert_np_to_float16

    if array.dtype == np.float16:
        return array
    halves: np.ndarray = convert_np_to_float16(array)
    return halves


def _put(tensor: onnx.TensorProto, array: np.ndarray, data: BinaryIO, name: str) -> None:
    """Append an array to the file of weights, and let the tensor say where it is."""
    from onnx.external_data_helper import set_external_data

    missing = -data.tell() % ALIGNMENT
    data.write(b"\0" * missing)
    start = data.tell()
    data.write(np.ascontiguousarray(array).data)
    tensor.raw_data = b"-"  # what set_external_data wants to see
    set_external_data(
        tensor,
        location=Path(name).name,
        offset=start,
        length=data.tell() - start,
    )
    tensor.ClearField("raw_data")


# --- dynamic int8 --------------------------------------------------------------------------------------


def quantize_dynamic(
    source: Path,
    path: Path,
    parameters: Mapping[str, Json],
    exclude: Collection[str],
) -> None:
    """Write the graph in the folder `source` with int8 products and tables, in the nodes that ONNX Runtime fuses."""
    from onnx import numpy_helper

    model = read(source)

    def weights_of(tensor: onnx.TensorProto) -> np.ndarray:
        return _read(tensor, source)

    quantize_rows(model, exclude, weights_of)
    tensors = initializers(model.graph)
    nodes: list[onnx.NodeProto] = []
    quantized: dict[str, str] = {}  # what was quantized at run time, with the prefix of its tensors
    for node in model.graph.node:
        weights = None
        if node.op_type in ("MatMul", "Gemm") and node.name not in exclude:
            weights = tensors.get(node.input[1])
        if weights is None or len(weights.dims) != 2 or not is_linear(node):
            nodes.append(node)
            continue
        array = weights_of(weights)
        if attributes(node).get("transB", 0):
            array = array.T
        codes, scales, zero = _codes(array, parameters)
        for name, found in (("codes", codes), ("scales", scales), ("zero", zero)):
            tensor = numpy_helper.from_array(found, f"{node.name}_{name}")
            model.graph.initializer.append(tensor)
        nodes += _product(node, quantized)
    replace_nodes(model, nodes)
    drop_unused(model.graph)
    write(model, source, path)


def _codes(array: np.ndarray, parameters: Mapping[str, Json]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights [k, n] as whole numbers, with a scale per column or for all, symmetric about the zero point."""
    largest = 64 if parameters["reduce_range"] else 127
    axis = 0 if parameters["per_channel"] else None
    scales = np.abs(array).max(axis=axis) / np.float32(largest)
    scales = np.where(scales > 0, scales, np.float32(1)).astype(np.float32)
    middle = 128 if parameters["weights"] == "uint8" else 0
    dtype = np.dtype(str(parameters["weights"]))
    codes = np.rint(array / scales) + middle
    zero = np.full(scales.shape, middle, dtype)
    return np.ascontiguousarray(codes.astype(dtype)), scales, zero


def _product(node: onnx.NodeProto, quantized: dict[str, str]) -> list[onnx.NodeProto]:
    """What is in the place of a matrix product; `quantized` gets its input where it was not quantized yet."""
    from onnx import TensorProto, helper

    nodes = []
    given = node.input[0]
    if given not in quantized:
        prefix = f"{node.name}_input"
        quantized[given] = prefix
        quantize = helper.make_node(
            "DynamicQuantizeLinear",
            inputs=[given],
            outputs=[f"{prefix}_codes", f"{prefix}_scale", f"{prefix}_zero"],
            name=prefix,
        )
        nodes.append(quantize)
    prefix = quantized[given]
    name = node.name
    (output,) = node.output
    has_bias = len(node.input) > 2 and bool(node.input[2])
    product = f"{name}_product" if has_bias else output
    nodes += [
        helper.make_node(
            "MatMulInteger",
            inputs=[f"{prefix}_codes", f"{name}_codes", f"{prefix}_zero", f"{name}_zero"],
            outputs=[f"{name}_sum"],
            name=f"{name}_integer",
        ),
        helper.make_node(
            "Cast",
            inputs=[f"{name}_sum"],
            outputs=[f"{name}_float"],
            name=f"{name}_cast",
            to=TensorProto.FLOAT,
        ),
        helper.make_node(
            "Mul",
            inputs=[f"{prefix}_scale", f"{name}_scales"],
            outputs=[f"{name}_scale"],
            name=f"{name}_scaling",
        ),
        helper.make_node(
            "Mul",
            inputs=[f"{name}_float", f"{name}_scale"],
            outputs=[product],
            name=name,
        ),
    ]
    if has_bias:
        add = helper.make_node(
            "Add",
            inputs=[product, node.input[2]],
            outputs=[output],
            name=f"{name}_bias",
        )
        nodes.append(add)
    return nodes
