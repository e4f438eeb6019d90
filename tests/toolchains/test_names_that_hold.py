"""A scheme is what its name says: weights counted wherever they lie, fp16 within its range, integers where possible."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional

from edge_assets.core.evidence import Accuracy, Parity, Verified
from edge_assets.core.shapes import record
from edge_assets.core.types import Built, Recipe, Result
from edge_assets.errors import Refused
from edge_assets.pipeline import blocked
from edge_assets.spec.model import Tensor
from edge_assets.toolchains.onnx import export as onnx_format
from edge_assets.toolchains.onnx import float16, int8_static
from edge_assets.toolchains.onnx.calibration import observe
from edge_assets.toolchains.onnx.weight_bytes import weight_bytes
from tests.toolchains.test_apple import SPEC, convert, session

FLAVOUR = int8_static.Flavour("uint8", "int8", per_channel=True)
RANDOM = np.random.default_rng(0)


def graph_of(
    nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], inputs: tuple[str, ...], width: int
) -> onnx.ModelProto:
    """A graph from float [batch, width] inputs to one output `y` of that shape."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]) for name in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", width])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def square(width: int = 8) -> np.ndarray:
    return RANDOM.normal(size=(width, width)).astype(np.float32)


# --- weights -------------------------------------------------------------------------------------------


def test_weights_are_counted_in_branches_and_constants_and_without_scales(tmp_path: Path) -> None:
    branch = helper.make_graph(
        [helper.make_node("MatMul", ["x", "inner"], ["z"])],
        "branch",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 8])],
        [numpy_helper.from_array(square(), "inner")],
    )
    nodes = [
        helper.make_node("Constant", [], ["outer"], value=numpy_helper.from_array(square().astype(np.float16))),
        helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["yes"], ["z"], then_branch=branch, else_branch=branch),
        helper.make_node("DequantizeLinear", ["codes", "scales", "zeros"], ["w"], axis=1),
        helper.make_node("MatMul", ["z", "w"], ["y"]),
    ]
    weights: dict[str, np.ndarray] = {
        "codes": np.ones((8, 8), np.int8),
        "scales": np.ones(8, np.float32),
        "zeros": np.zeros(8, np.int8),
        "positions": np.ones((8, 8), np.int64),
    }
    path = saved(graph_of(nodes, weights, ("x",), 8), tmp_path)
    assert weight_bytes(path) == {"fp16": 128, "fp32": 2 * 256, "int8": 64}


def test_packed_codes_count_in_their_own_bits(tmp_path: Path) -> None:
    nodes = [
        helper.make_node(
            "MatMulNBits", ["x", "codes", "scales"], ["y"], domain="com.microsoft", K=32, N=32, bits=4, block_size=32
        )
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 32])],
        [
            numpy_helper.from_array(np.zeros((32, 1, 16), np.uint8), "codes"),
            numpy_helper.from_array(np.ones((32, 1), np.float32), "scales"),
        ],
    )
    path = saved(helper.make_model(graph), tmp_path)
    assert weight_bytes(path) == {"int4": 512}


@pytest.mark.parametrize(
    ("held", "precision", "words"),
    [
        ({"int8": 2, "fp32": 98}, "int8", "2 % of the bytes of its weights are int8, and at least 50 % have to be"),
        ({"int8": 60, "fp32": 40}, "int8", None),
        ({"fp32": 100}, "fp16", "0 % of the bytes of its weights are fp16"),
        ({"fp32": 100}, "fp32", None),
        (None, "int8", None),
    ],
)
def test_a_name_that_most_of_the_weights_do_not_bear_out_is_refused(
    held: dict[str, int] | None, precision: str, words: str | None
) -> None:
    parity = Parity(max_abs=0.0, max_rel=0.0, cosine=1.0, snr_db=90.0, nan=0, inf=0, by_output={})
    accuracy = Accuracy(
        value=1.0,
        reference=1.0,
        samples=9,
        drop_points=0.0,
        drop_interval_points=(0.0, 0.0),
        confidence=0.95,
        lost=0,
        gained=0,
    )
    verified = Verified(parity=parity, accuracy=accuracy, weight_bytes=held)
    build = Result(Recipe("onnx_x", "1"), None, {})
    evidence = Result(Recipe("verification", "3"), None, record(verified))
    built = Built("onnx_x", "onnx", precision, "onnx", build, evidence)
    reason = blocked.misnamed(built)
    if words is None:
        assert reason is None
    else:
        assert reason is not None
        assert words in reason


def later(path: Path, folder: Path, node: onnx.NodeProto | None = None) -> Path:
    """The file as a quantizer leaves it, which raises the opset, and may add a node of it."""
    model = onnx.load(path)
    model.opset_import[0].version = 21
    model.ir_version = 11
    if node is not None:
        model.graph.node.insert(0, node)
    (folder / "later").mkdir()
    return saved(model, folder / "later")


def test_a_raised_opset_is_put_back_where_nothing_needs_it(tmp_path: Path) -> None:
    source = saved(graph_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": square()}, ("x",), 8), tmp_path)
    raised = later(source, tmp_path)
    assert onnx_format.finish(raised, source)["opset"] == 20
    read = onnx.load(raised)
    assert (read.opset_import[0].version, read.ir_version) == (20, 10)


def test_a_file_that_needs_a_later_opset_is_refused(tmp_path: Path) -> None:
    source = saved(graph_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": square()}, ("x",), 8), tmp_path)
    blocks = helper.make_node("QuantizeLinear", ["x", "scale"], ["q"], output_dtype=TensorProto.INT16)  # since 21
    raised = later(source, tmp_path, blocks)
    with pytest.raises(Refused, match="needs opset 21, and the target asks for 20"):
        onnx_format.finish(raised, source)


# --- fp16 ----------------------------------------------------------------------------------------------


class Loud(torch.nn.Module):
    """Squares of large values, as in a norm: beyond 65504 inside, small again at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        loud = self.linear(x) * 1000
        return loud / (loud.square().mean(dim=1, keepdim=True) + 1).sqrt()


LOUD = replace(
    SPEC,
    name="loud",
    architecture=f"{__name__}:Loud",
    inputs=(Tensor("x", "float32", ("batch", 8)),),
    outputs=(Tensor("y", "float32", ("batch", 8)),),
    preprocessing=None,
)


def test_what_exceeds_half_precision_stays_in_fp32_and_is_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="product"),
        helper.make_node("Mul", ["a", "a"], ["b"], name="squares"),
        helper.make_node("Sqrt", ["b"], ["c"], name="root"),
        helper.make_node("MatMul", ["c", "v"], ["y"], name="last"),
    ]
    path = saved(graph_of(nodes, {"w": 300 * square(), "v": square() / 300}, ("x",), 8), tmp_path)
    feeds = {"x": RANDOM.normal(size=(16, 8)).astype(np.float32)}
    (tmp_path / "half").mkdir()
    half = tmp_path / "half" / "model.onnx"
    (note,) = float16.convert(path, half, feeds)
    assert note.startswith("beyond fp16's 65504 on calibration data, so kept in fp32: squares (")
    expected = onnxruntime.InferenceSession(path).run(None, feeds)[0]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # nor any Cast is left out
    found = onnxruntime.InferenceSession(half, options).run(None, feeds)[0]
    assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max()
    assert weight_bytes(half) == {"fp16": 2 * 8 * 8 * 2}, "what is within the range is in half precision"


def test_the_scales_of_a_resize_are_of_the_type_that_it_takes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["factors", "two"], ["scales"], name="scaled"),
        helper.make_node("Resize", ["x", "", "scales"], ["z"], name="resized", mode="nearest"),
        helper.make_node("MatMul", ["z", "w"], ["y"], name="product"),
    ]
    weights = {"factors": np.array([1, 0.5], np.float32), "two": np.array([1, 2], np.float32), "w": square()}
    path = saved(graph_of(nodes, weights, ("x",), 8), tmp_path)
    (tmp_path / "half").mkdir()
    half = tmp_path / "half" / "model.onnx"
    feeds = {"x": RANDOM.normal(size=(4, 8)).astype(np.float32)}
    float16.convert(path, half, feeds)
    expected = onnxruntime.InferenceSession(path).run(None, feeds)[0]
    assert np.allclose(onnxruntime.InferenceSession(half).run(None, feeds)[0], expected, atol=0.05)


def test_a_graph_within_the_range_is_wholly_in_half_precision(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    path = saved(graph_of(nodes, {"w": square()}, ("x",), 8), tmp_path)
    (tmp_path / "half").mkdir()
    assert float16.convert(path, tmp_path / "half" / "model.onnx", {"x": np.ones((4, 8), np.float32)}) == []


def test_weights_below_the_normal_numbers_are_counted(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    weights = np.full((8, 8), 0.5, np.float32)
    weights[0] = 0  # exact
    weights[1, :4] = [1e-5, -6e-5, 1e-9, 6.2e-5]
    path = saved(graph_of(nodes, {"w": weights}, ("x",), 8), tmp_path)
    (tmp_path / "half").mkdir()
    notes = float16.convert(path, tmp_path / "half" / "model.onnx", {"x": np.ones((4, 8), np.float32)})
    said = "3 weights (5 %) are below fp16's smallest normal number, 6.1e-05, and lose precision"
    assert notes == [said]


def test_a_coreml_program_overflows_where_fp16_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    facts = convert(LOUD, Loud().eval(), tmp_path)
    feeds = {"x": RANDOM.normal(size=(4, 8)).astype(np.float32)}
    outputs = session(LOUD, facts, tmp_path).run(feeds)["y"]
    assert not np.abs(outputs).min() > 0.1, "by an infinite root, everything is 0 or NaN"


# --- integers ------------------------------------------------------------------------------------------


def test_a_constant_tensor_keeps_its_operators_in_floating_point_and_no_others(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("Mul", ["mask", "two"], ["m"], name="scaled"),
        helper.make_node("Mul", ["a", "m"], ["b"], name="masked"),
        helper.make_node("MatMul", ["b", "v"], ["y"], name="last"),
    ]
    weights = {"w": square(), "v": square(), "two": np.array([2], np.float32)}
    path = saved(graph_of(nodes, weights, ("x", "mask"), 8), tmp_path)
    feeds = {"x": RANDOM.normal(size=(16, 8)).astype(np.float32), "mask": np.ones((16, 8), np.float32)}
    prepared = int8_static.prepare(path, tmp_path)
    ranges = observe(prepared, feeds, "minmax")
    assert set(ranges.unfit) == {"mask", "m"}
    (note,) = ranges.facts["notes"]
    assert "and 1 more stay in floating point: it is " in note
    assert " everywhere in all 16 calibration samples" in note
    int8_static.quantize_with(prepared, ranges, FLAVOUR, tmp_path / "int8.onnx")
    assert weight_bytes(tmp_path / "int8.onnx") == {"int8": 2 * 64}
    other = {"x": feeds["x"], "mask": RANDOM.normal(size=(16, 8)).astype(np.float32)}
    expected = onnxruntime.InferenceSession(path).run(None, other)[0]
    found = onnxruntime.InferenceSession(tmp_path / "int8.onnx").run(None, other)[0]
    assert np.corrcoef(expected.ravel(), found.ravel())[0, 1] > 0.98, "another mask is not lost"


class Smaller(nn.Module):
    """A picture of any size in 0.7 of it: a float that is multiplied by its height and width."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.layer(image)
        return functional.interpolate(features, scale_factor=0.7, mode="bilinear", recompute_scale_factor=True)


def test_sizes_that_are_computed_stay_in_floating_point(tmp_path: Path) -> None:
    spec = replace(
        SPEC,
        inputs=(Tensor("image", "float32", ("batch", 1, "height", "width")),),
        outputs=(Tensor("features", "float32", ("batch", 4, "rows", "columns")),),
        axis_ranges={"height": (8, 16, 520), "width": (8, 20, 64)},
        preprocessing=None,
    )
    onnx_format.save(onnx_format.export(Smaller().eval(), spec, 20), tmp_path / "model.onnx")
    prepared = int8_static.prepare(tmp_path / "model.onnx", tmp_path)
    ranges = observe(prepared, {"image": RANDOM.normal(size=(16, 1, 16, 20)).astype(np.float32)}, "minmax")
    int8_static.quantize_with(prepared, ranges, FLAVOUR, tmp_path / "int8.onnx")
    float16.convert(tmp_path / "model.onnx", tmp_path / "fp16.onnx", {"image": np.ones((2, 1, 16, 20), np.float32)})
    picture = {"image": RANDOM.normal(size=(1, 1, 517, 30)).astype(np.float32)}
    expected = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, picture)[0]
    assert expected.shape == (1, 4, 361, 21), "361.9 would be 362 in half precision"
    for name in ("int8.onnx", "fp16.onnx"):
        found = onnxruntime.InferenceSession(tmp_path / name).run(None, picture)[0]
        assert found.shape == expected.shape
        assert np.corrcoef(expected.ravel(), found.ravel())[0, 1] > 0.98


def test_where_nothing_is_left_the_refusal_says_why(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    path = saved(graph_of(nodes, {"w": square()}, ("x",), 8), tmp_path)
    prepared = int8_static.prepare(path, tmp_path)
    ranges = observe(prepared, {"x": np.ones((16, 8), np.float32)}, "minmax")
    with pytest.raises(Refused, match="no node of this graph was changed.*is 1 everywhere in all 16 calibration"):
        int8_static.quantize_with(prepared, ranges, FLAVOUR, tmp_path / "int8.onnx")
