"""Dynamic axes stay dynamic: traced at sizes of their range, compared after conversion, tried in other sizes."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from edge_assets import ModelSpec, Passthrough, Tensor
from edge_assets.core.axes import example_sizes, frozen
from edge_assets.core.one_sample import check_sizes
from edge_assets.core.session import Feeds
from edge_assets.core.verify import parity
from edge_assets.core.verify.sizes import Resized, SavedSizes, resized_samples, save
from edge_assets.errors import ExportError, ReferenceFault, Refused
from edge_assets.toolchains.onnx import export as onnx_format
from edge_assets.toolchains.onnx.fixed_batch import fixed, input_shapes
from edge_assets.toolchains.pytorch.calling import example_inputs
from edge_assets.toolchains.pytorch.session import TorchSession
from tests.tiny import signatures
from tests.tiny.spec import TINY

SIGNAL = replace(
    TINY,
    name="signal",
    inputs=(Tensor("signal", "float32", ("batch", "length", 4)),),
    outputs=(Tensor("y", "float32", ("batch", 4)),),
    preprocessing=Passthrough(("signal",)),
    axis_ranges={"length": (8, 32, 64)},
)
EVERY = replace(SIGNAL, outputs=(Tensor("y", "float32", ("batch", "length", 4)),))
PICTURE = replace(SIGNAL, inputs=(Tensor("signal", "float32", ("batch", "height", "width")),), axis_ranges={})


def signals(length: int) -> dict[str, np.ndarray]:
    return {"signal": np.random.default_rng(0).normal(size=(8, length, 4)).astype(np.float32)}


def eager(model: torch.nn.Module) -> TorchSession:
    return TorchSession(model.eval(), ["signal"], ["y"])


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ({"height": (32, 256, 512), "width": (32, 256, 512)}, {"height": 256, "width": 128}),
        ({"height": (1, 1, 8), "width": (3, 3, 3)}, {"height": 8, "width": 3}),
        ({}, {"height": 128, "width": 64}),
    ],
)
def test_a_model_is_traced_at_sizes_of_its_ranges(
    ranges: dict[str, tuple[int, int, int]], expected: dict[str, int]
) -> None:
    spec = replace(PICTURE, axis_ranges=ranges)
    assert example_sizes(spec, batch=2) == {"batch": 2} | expected
    (example,) = example_inputs(spec)
    assert list(example.shape) == [2, *expected.values()]


def test_an_axis_that_froze_is_an_error_that_names_axis_value_and_what_torch_says() -> None:
    with pytest.raises(ExportError, match=r"'length' froze at 32, as axis 1 of 'signal'. torch says: .*length") as kept:
        onnx_format.export(signatures.OneLength().eval(), EVERY, 20)
    assert "32" in str(kept.value).partition("torch says")[2]


def test_an_axis_that_is_dynamic_is_exported_so() -> None:
    exported = onnx_format.export(signatures.AnyLength().eval(), SIGNAL, 20)
    assert onnx_format.axes_of(exported.graph.input) == {"signal": ["batch", "length", 4]}


def test_two_axes_that_became_one_are_named() -> None:
    said = frozen(PICTURE.inputs, {"signal": ["batch", "height", "height"]})
    assert said == "the dynamic axes 'height' and 'width' became one, as if they were always equal"


def test_parity_tries_other_sizes_than_the_datas(tmp_path: Path) -> None:
    session = eager(signatures.AnyLength())
    resized = resized_samples(session, SIGNAL, signals(32))
    assert [case.title for case in resized] == ["length=16", "length=64"]
    save(resized, tmp_path / "sizes.npz")
    kept = SavedSizes(tmp_path / "sizes.npz", (("length", 16, 32), ("length", 64, 32)))
    feeds = signals(32)
    found = parity.measure(session, feeds, session.run(feeds), kept.read())
    assert found.by_size is not None
    assert list(found.by_size) == ["length=16", "length=64"]
    assert found.snr_db == parity.SNR_CAP_DB


def test_an_artifact_that_takes_one_size_fails_by_the_axis_name() -> None:
    session = eager(signatures.AnyLength())

    def run(feeds: Feeds) -> dict[str, np.ndarray]:
        if feeds["signal"].shape[1] != 32:
            raise ValueError("Got invalid dimensions: index 1 Got: 16 Expected: 32")
        return session.run(feeds)

    feeds = signals(32)
    resized = resized_samples(session, SIGNAL, feeds)
    with pytest.raises(ExportError, match="'length' froze at 32: with 16 the artifact raises ValueError: Got invalid"):
        parity.measure(SimpleNamespace(run=run), feeds, session.run(feeds), resized)


def test_an_artifact_that_is_wrong_at_another_size_does_not_keep_parity() -> None:
    session = eager(signatures.AnyLength())

    def run(feeds: Feeds) -> dict[str, np.ndarray]:
        return {"y": session.run(feeds)["y"] * (feeds["signal"].shape[1] / 32)}

    feeds = signals(32)
    found = parity.measure(SimpleNamespace(run=run), feeds, session.run(feeds), resized_samples(session, SIGNAL, feeds))
    passed, sentence = parity.verdict(found, "fp32")
    assert not passed
    assert "dB with length=64, below 60 dB" in sentence


def test_a_network_that_takes_the_datas_size_alone_is_named() -> None:
    with pytest.raises(ReferenceFault, match="no other size of its dynamic axis 'length' than 32, the data's"):
        resized_samples(eager(signatures.ExactLength()), SIGNAL, signals(32))


def test_a_range_of_one_size_has_no_other_sizes() -> None:
    spec: ModelSpec = replace(SIGNAL, axis_ranges={"length": (32, 32, 32)})
    found: list[Resized] = resized_samples(eager(signatures.ExactLength()), spec, signals(32))
    assert found == []


def test_a_static_program_may_have_another_size_than_the_preprocessing_makes() -> None:
    dynamic = replace(TINY, inputs=(Tensor("image", "float32", ("batch", 1, "height", "width")),))
    assert fixed(dynamic).inputs[0].shape == ("batch", 1, 128, 128)
    assert fixed(dynamic).fed_inputs == fixed(dynamic).inputs
    with pytest.raises(Refused, match="this static program takes"):
        check_sizes({"image": np.zeros((1, 1, 8, 8), np.float32)}, input_shapes(dynamic))
