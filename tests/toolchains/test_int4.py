"""int4, int8 and dynamic int8 on a small graph of products: sizes, agreement with fp32, what GPTQ gains on rounding."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_assets.errors import Refused
from edge_assets.hashing import Json
from edge_assets.toolchains.onnx import int4_weights, int8_dynamic, int8_weights
from edge_assets.toolchains.onnx.block_weights import check_share
from edge_assets.toolchains.onnx.gptq import round_weights

WIDTH, TOKENS = 64, 500
DYNAMIC: Mapping[str, Json] = {"per_channel": True, "reduce_range": False, "weights": "int8"}


@pytest.fixture(scope="module")
def feeds() -> dict[str, np.ndarray]:
    return {"tokens": np.random.default_rng(0).integers(0, TOKENS, (64, 8))}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedding and two layers, whose activations are correlated as a trained network's are."""
    rng = np.random.default_rng(1)
    table = (rng.normal(size=(TOKENS, 8)) @ rng.normal(size=(8, WIDTH)) + 0.1 * rng.normal(size=(TOKENS, WIDTH))) / 3
    arrays = {"table": table, "first": rng.normal(size=(WIDTH, 96)) / 8, "second": rng.normal(size=(96, 32)) / 8}
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["embedded"], name="embed"),
        helper.make_node("MatMul", ["embedded", "first"], ["hidden"], name="up"),
        helper.make_node("Relu", ["hidden"], ["active"], name="relu"),
        helper.make_node("MatMul", ["active", "second"], ["out"], name="down"),
    ]
    tokens = helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", 8])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 8, 32])
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "embedder", [tokens], [out], tensors),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    path = tmp_path_factory.mktemp("int4") / "model.onnx"
    onnx.save(model, path)
    return path


def run(path: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


def error(path: Path, graph: Path, feeds: dict[str, np.ndarray]) -> float:
    """Squared error relative to the signal's."""
    expected = run(graph, feeds)
    return float(((run(path, feeds) - expected) ** 2).mean() / (expected**2).mean())


def test_embeddings_are_in_int4_too(graph: Path, feeds: dict[str, np.ndarray], tmp_path: Path) -> None:
    assert int4_weights.quantize(graph, tmp_path / "rtn.onnx", "rtn", feeds) == 3
    assert (tmp_path / "rtn.onnx").stat().st_size < 0.25 * graph.stat().st_size
    assert error(tmp_path / "rtn.onnx", graph, feeds) < 0.05


def test_gptq_is_nearer_to_fp32_than_rounding(graph: Path, feeds: dict[str, np.ndarray], tmp_path: Path) -> None:
    for method in ("rtn", "gptq", "hqq"):
        int4_weights.quantize(graph, tmp_path / f"{method}.onnx", method, feeds, exclude=["embed"])
    errors = {method: error(tmp_path / f"{method}.onnx", graph, feeds) for method in ("rtn", "gptq", "hqq")}
    assert errors["gptq"] < 0.5 * errors["rtn"], errors
    assert (tmp_path / "gptq.onnx").stat().st_size <= (tmp_path / "rtn.onnx").stat().st_size + 100


def test_gptq_without_correlation_is_rounding() -> None:
    weights = np.random.default_rng(2).normal(size=(64, 5)).astype(np.float32)
    codes, scales, zeros = round_weights(weights, np.eye(64), 32)
    rounded = (codes.astype(float) - np.repeat(zeros, 32, axis=0)) * np.repeat(scales, 32, axis=0)
    assert np.abs(rounded - weights).max() <= scales.max() * 0.75  # a zero point that is rounded moves the ends


def test_excluded_nodes_keep_their_weights(graph: Path, feeds: dict[str, np.ndarray], tmp_path: Path) -> None:
    assert int4_weights.quantize(graph, tmp_path / "part.onnx", "gptq", feeds, exclude=["down", "embed"]) == 1
    kept = {tensor.name for tensor in onnx.load(tmp_path / "part.onnx").graph.initializer}
    assert {"second", "table"} <= kept
    assert "first" not in kept


def test_dynamic_int8_takes_the_table_too(graph: Path, feeds: dict[str, np.ndarray], tmp_path: Path) -> None:
    assert int8_dynamic.quantize(graph, tmp_path / "dynamic.onnx", DYNAMIC) > 0
    assert (tmp_path / "dynamic.onnx").stat().st_size < 0.35 * graph.stat().st_size
    assert error(tmp_path / "dynamic.onnx", graph, feeds) < 2e-3
    int8_dynamic.quantize(graph, tmp_path / "kept.onnx", DYNAMIC, ["embed"])
    assert (tmp_path / "kept.onnx").stat().st_size > 0.6 * graph.stat().st_size


def test_int8_weights_keep_the_table_in_rows(graph: Path, feeds: dict[str, np.ndarray], tmp_path: Path) -> None:
    assert int8_weights.quantize(graph, tmp_path / "w8.onnx") == 3
    assert (tmp_path / "w8.onnx").stat().st_size < 0.35 * graph.stat().st_size
    assert error(tmp_path / "w8.onnx", graph, feeds) < 1e-3


def test_integers_and_numbers_by_row_are_no_embeddings(tmp_path: Path) -> None:
    """Two lookups, of neighbours int64 [500, 4] and of a factor float [500], and a product of width 300."""
    rng = np.random.default_rng(4)
    arrays: dict[str, np.ndarray] = {
        "neighbours": rng.integers(0, 99, (TOKENS, 4)),
        "factors": rng.normal(size=TOKENS).astype(np.float32),
        "weights": rng.normal(size=(300, 64)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["neighbours", "tokens"], ["found"], name="neighbour"),
        helper.make_node("Gather", ["factors", "tokens"], ["factor"], name="scale"),
        helper.make_node("MatMul", ["x", "weights"], ["product"], name="product"),
    ]
    inputs = [
        helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch"]),
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 300]),
    ]
    outputs = [
        helper.make_tensor_value_info("found", TensorProto.INT64, ["batch", 4]),
        helper.make_tensor_value_info("factor", TensorProto.FLOAT, ["batch"]),
        helper.make_tensor_value_info("product", TensorProto.FLOAT, ["batch", 64]),
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    path = tmp_path / "lookups.onnx"
    opset = [helper.make_opsetid("", 20)]
    onnx.save(
        helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, tensors), opset_imports=opset, ir_version=10),
        path,
    )
    feeds: dict[str, np.ndarray] = {"tokens": np.arange(8), "x": rng.normal(size=(8, 300)).astype(np.float32)}
    made = {method: tmp_path / f"{method}.onnx" for method in ("rtn", "gptq", "weights", "dynamic")}
    for method in ("rtn", "gptq"):
        assert int4_weights.quantize(path, made[method], method, feeds) == 1
    int8_weights.quantize(path, made["weights"])
    int8_dynamic.quantize(path, made["dynamic"], DYNAMIC)
    expected = arrays["neighbours"][:8], arrays["factors"][:8], feeds["x"] @ arrays["weights"]
    for method, file in made.items():
        found, factor, product = onnxruntime.InferenceSession(file).run(None, feeds)
        assert (found == expected[0]).all(), method
        assert (factor == expected[1]).all(), method
        assert np.linalg.norm(product - expected[2]) < 0.15 * np.linalg.norm(expected[2]), method


def test_a_gemm_that_is_excluded_keeps_its_weights(tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.random.default_rng(5).normal(size=(32, 64)).astype(np.float32), "weights")
    more = numpy_helper.from_array(np.random.default_rng(6).normal(size=(16, 32)).astype(np.float32), "more")
    bias = numpy_helper.from_array(np.ones(32, np.float32), "bias")
    nodes = [
        helper.make_node("Gemm", ["x", "weights", "bias"], ["hidden"], name="first", transB=1),
        helper.make_node("Gemm", ["hidden", "more"], ["y"], name="second", transB=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 16])
    graph = helper.make_graph(nodes, "g", [x], [y], [weights, more, bias])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "g.onnx")
    int8_dynamic.quantize(tmp_path / "g.onnx", tmp_path / "kept.onnx", DYNAMIC, ["first"])
    operators = {node.name: node.op_type for node in onnx.load(tmp_path / "kept.onnx").graph.node}
    assert operators["first"] == "MatMul"
    assert list(operators.values()).count("MatMulInteger") == 1


@pytest.fixture(scope="module")
def convolution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One convolution [8, 8, 3, 3] of x to y, [batch, 8, 8, 8]."""
    weights = np.random.default_rng(2).normal(size=(8, 8, 3, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "kernel"], ["y"], name="conv", pads=[1, 1, 1, 1])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 8, 8, 8]) for name in ("x", "y"))
    path = tmp_path_factory.mktemp("convolution") / "model.onnx"
    model = helper.make_model(
        helper.make_graph([node], "conv", [x], [y], [numpy_helper.from_array(weights, "kernel")]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    onnx.save(model, path)
    return path


def test_int8_weights_of_convolutions_are_expanded_once(convolution: Path, tmp_path: Path) -> None:
    assert int8_weights.quantize(convolution, tmp_path / "w8.onnx") == 1
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "opened.onnx")
    onnxruntime.InferenceSession(tmp_path / "w8.onnx", options, providers=["CPUExecutionProvider"])
    operators = {node.op_type for node in onnx.load(tmp_path / "opened.onnx").graph.node}
    assert "Conv" in operators
    assert not operators & {"Cast", "Mul", "DequantizeLinear"}
    feeds = {"x": np.random.default_rng(3).normal(size=(2, 8, 8, 8)).astype(np.float32)}
    assert error(tmp_path / "w8.onnx", convolution, feeds) < 1e-3


def test_int4_is_refused_for_convolutions(convolution: Path) -> None:
    with pytest.raises(Refused, match="hold 0 % of the weights.*no form for convolutions"):
        check_share(convolution, instead="onnx_int8_static")
