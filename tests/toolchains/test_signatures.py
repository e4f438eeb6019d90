"""Signatures as networks have them: outputs by name, keywords, the batch on any axis, states from step to step."""

from collections import namedtuple
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edge_assets import ModelSpec, Tensor
from edge_assets.core.arranged import ArrangedSession
from edge_assets.core.layout import Stream, arranged, place
from edge_assets.core.session import Session, layout_of
from edge_assets.core.verify import parity
from edge_assets.errors import EdgeAssetsError
from edge_assets.toolchains.onnx import export as onnx_format
from edge_assets.toolchains.onnx import session as onnx_session
from edge_assets.toolchains.pytorch.calling import plain, takes_by_name
from edge_assets.toolchains.pytorch.eager import session_of
from edge_assets.toolchains.pytorch.session import flattened
from tests.tiny.spec import TINY
from tests.tiny.stream import STEPS, STREAM, network, sequences

Pair = namedtuple("Pair", "boxes scores")  # as networks return them
ONE, TWO = torch.zeros(1), torch.ones(2)


@dataclass
class Returned:
    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...] | None = None


def specified(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> ModelSpec:
    return replace(TINY, inputs=inputs, outputs=outputs, preprocessing=None)


# --- outputs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "outputs", "expected"),
    [
        (ONE, ("y",), (ONE,)),
        ([ONE, TWO], ("a", "b"), (ONE, TWO)),
        ({"scores": TWO, "boxes": ONE}, ("boxes", "scores"), (ONE, TWO)),
        ({"scores": TWO, "boxes": ONE}, ("a", "b"), (TWO, ONE)),
        ({"head": {"boxes": ONE}, "extra": 5}, ("head_boxes",), (ONE,)),
        (Returned(ONE), ("y",), (ONE,)),
        (Returned(ONE, (TWO, ONE)), ("hidden_0", "logits"), (TWO, ONE)),
        (Pair(ONE, TWO), ("scores",), (TWO,)),
        ((ONE, (None, (TWO,))), ("a", "b"), (ONE, TWO)),
    ],
)
def test_outputs_are_taken_by_name_or_in_their_order(
    returned: object, outputs: tuple[str, ...], expected: tuple[torch.Tensor, ...]
) -> None:
    found = flattened(returned, outputs)
    assert len(found) == len(expected)
    assert all(one is other for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        ({"a": ONE, "b": TWO}, r"returns 2 tensors \(a, b\), the spec declares 1 outputs \(y\)"),
        ({"a": ONE, "loss": 0.5}, r"returns what is no tensor \(loss: float\)"),
        ({"a_b": ONE, "a": {"b": TWO}}, "two outputs of the name a_b"),
    ],
)
def test_outputs_that_do_not_fit_are_named(returned: object, reason: str) -> None:
    with pytest.raises(EdgeAssetsError, match=reason):
        flattened(returned, ("y",))


# --- inputs --------------------------------------------------------------------------------------------


class Keywords(nn.Module):
    """A keyword alone, an optional input before it, and a dataclass out."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None = None, *, mask: torch.Tensor) -> Returned:
        y = self.layer(x) * mask
        return Returned(y if bias is None else y + bias, (mask,))


KEYWORDS = specified(
    (Tensor("x", "float32", ("batch", 4)), Tensor("mask", "float32", ("batch", 4))),
    (Tensor("logits", "float32", ("batch", 4)),),
)


def test_inputs_are_given_by_name_where_the_position_is_another() -> None:
    model = Keywords()
    assert takes_by_name(model, ["x", "mask"])
    assert not takes_by_name(nn.Linear(4, 4), ["x"])
    with pytest.raises(EdgeAssetsError, match="needs the keyword mask, and the spec's inputs are x"):
        takes_by_name(model, ["x"])
    with pytest.raises(EdgeAssetsError, match="takes mask by keyword alone: name every input of the spec"):
        takes_by_name(model, ["image", "mask"])


def exported(model: nn.Module, spec: ModelSpec, folder: Path) -> Session:
    """The network in ONNX Runtime."""
    path = folder / onnx_format.FILE
    onnx_format.save(onnx_format.export(plain(model.eval(), spec), spec, 20), path)
    inputs, outputs = [tensor.name for tensor in spec.inputs], [tensor.name for tensor in spec.outputs]
    session = onnx_session.open_session(path, threads=1, inputs=inputs, outputs=outputs)
    layout = layout_of(spec)
    return ArrangedSession(session, layout) if layout else session


def eager(model: nn.Module, spec: ModelSpec) -> Session:
    inputs, outputs = [tensor.name for tensor in spec.inputs], [tensor.name for tensor in spec.outputs]
    session = session_of(model.eval(), inputs, outputs)
    layout = layout_of(spec)
    return ArrangedSession(session, layout) if layout else session


def agree(model: Callable[[], nn.Module], spec: ModelSpec, feeds: Mapping[str, np.ndarray], folder: Path) -> None:
    torch.manual_seed(0)
    first = model()
    expected = eager(first, spec).run(feeds)
    found = parity.measure(exported(first, spec, folder), feeds, expected)
    assert found.snr_db is not None
    assert found.snr_db > 60, found


def test_keywords_and_a_dataclass_are_exported(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    feeds = {name: rng.normal(size=(8, 4)).astype(np.float32) for name in ("x", "mask")}
    agree(Keywords, KEYWORDS, feeds, tmp_path)


# --- types and places ----------------------------------------------------------------------------------


class Mixed(nn.Module):
    """Numbers of several types, the batch last, and a scalar in and out."""

    def forward(
        self, double: torch.Tensor, half: torch.Tensor, small: torch.Tensor, gain: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        y = double.transpose(0, 1) * gain
        return y, half + 1, small.to(torch.int16), gain * 2


MIXED = specified(
    (
        Tensor("double", "float64", (3, "batch")),
        Tensor("half", "float16", ("batch", 2)),
        Tensor("small", "int8", ("batch", 2)),
        Tensor("gain", "float32", ()),
    ),
    (
        Tensor("y", "float64", ("batch", 3)),
        Tensor("halves", "float16", ("batch", 2)),
        Tensor("wide", "int16", ("batch", 2)),
        Tensor("doubled", "float32", ()),
    ),
)


def test_other_types_places_of_the_batch_and_scalars_are_exported(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    feeds: dict[str, np.ndarray] = {
        "double": rng.normal(size=(8, 3)),
        "half": rng.normal(size=(8, 2)).astype(np.float16),
        "small": rng.integers(-9, 9, size=(8, 2)).astype(np.int8),
        "gain": np.full(8, 1.5, np.float32),
    }
    outputs = eager(Mixed(), MIXED).run(feeds)
    assert {name: (array.dtype.name, array.shape) for name, array in outputs.items()} == {
        "y": ("float64", (8, 3)),
        "halves": ("float16", (8, 2)),
        "wide": ("int16", (8, 2)),
        "doubled": ("float32", (8,)),
    }
    agree(Mixed, MIXED, feeds, tmp_path)


def test_what_has_no_batch_has_one_value() -> None:
    layout = layout_of(MIXED)
    assert layout is not None
    with pytest.raises(ValueError, match="'gain' has no batch, and is not the same in all samples"):
        place({"gain": np.arange(3.0)}, layout)


# --- states --------------------------------------------------------------------------------------------


def test_states_go_from_step_to_step_in_every_runtime(tmp_path: Path) -> None:
    data = sequences(8, seed=3)
    feeds = {"frame": data["frame"]}
    outputs = eager(network(), STREAM).run(feeds)
    assert outputs["scores"].shape == (8, STEPS, 3)
    assert outputs["h_next"].shape == (8, 2, 16)
    assert (outputs["scores"][:, -1].argmax(1) == data["label"]).all()
    agree(network, STREAM, feeds, tmp_path)


def test_a_state_that_is_lost_does_not_keep_parity() -> None:
    data = sequences(8, seed=3)
    feeds = {"frame": data["frame"]}
    expected = eager(network(), STREAM).run(feeds)
    session = session_of(network(), ["frame", "h"], ["scores", "h_next"])

    def forgetful(placed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return session.run({**placed, "h": np.zeros_like(placed["h"])})

    layout = layout_of(STREAM)
    assert layout is not None
    broken: Any = type("Broken", (), {"run": staticmethod(arranged(forgetful, layout))})
    found = parity.measure(broken, feeds, expected)
    assert found.snr_db is not None
    assert found.snr_db < 30


def test_a_timed_query_is_a_step_with_the_state_of_the_one_before() -> None:
    data = sequences(3, seed=3)
    feeds = {"frame": data["frame"]}
    layout = layout_of(STREAM)
    assert layout is not None
    session = session_of(network(), ["frame", "h"], ["scores", "h_next"])
    stream = Stream(layout)
    first = stream.next(feeds)
    assert not first["h"].any()
    stream.keep(session.run(first))
    assert stream.next(feeds)["h"].any()
    for _ in range(STEPS - 1):
        stream.next(feeds)
    assert stream.step == 1, "a new sequence begins"
    assert ArrangedSession(session, layout).time(feeds) > 0
