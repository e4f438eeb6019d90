"""What converters take and give wrong: outputs that are also read inside, recurrent layers, sizes that move."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import litert_torch
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchao.quantization.pt2e import disable_observer

from edge_assets import ModelSpec, Tensor
from edge_assets.core.session import Session
from edge_assets.core.variant import BuildRequest
from edge_assets.errors import Refused
from edge_assets.toolchains.coreml import package as coreml
from edge_assets.toolchains.executorch import int8 as executorch_int8
from edge_assets.toolchains.executorch import program as executorch
from edge_assets.toolchains.litert import convert as litert
from edge_assets.toolchains.litert import int8_static
from edge_assets.toolchains.litert import session as litert_session
from edge_assets.toolchains.litert import weights as litert_weights
from edge_assets.toolchains.onnx import export as onnx_format
from edge_assets.toolchains.onnx import int8_dynamic, int8_weights
from edge_assets.toolchains.onnx import session as onnx_session
from edge_assets.toolchains.onnx.weight_bytes import weight_bytes
from edge_assets.toolchains.pytorch import int8_static as torch_static
from edge_assets.toolchains.pytorch import qat, torchscript
from edge_assets.toolchains.pytorch.steps import recurrent_steps
from tests.tiny.spec import TINY


def specified(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> ModelSpec:
    return replace(TINY, inputs=inputs, outputs=outputs, preprocessing=None)


def snr(network: nn.Module, found: Mapping[str, np.ndarray], feeds: Mapping[str, np.ndarray]) -> list[float]:
    """Of each output, in dB."""
    with torch.no_grad():
        outputs = network(*[torch.from_numpy(array) for array in feeds.values()])
    if isinstance(outputs, torch.Tensor):
        outputs = (outputs,)
    ratios = []
    for name, output in zip(found, outputs, strict=True):
        expected = output.numpy().astype(np.float64)
        noise = np.square(expected - found[name]).sum()
        ratios.append(float(10 * np.log10(np.square(expected).sum() / max(noise, 1e-12))))
    return ratios


# --- LiteRT: outputs that are read inside --------------------------------------------------------------


class Inner(nn.Module):
    """Returns what its last layer reads, and what that gives."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.last = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.relu(self.first(x))
        return hidden, self.last(hidden)


INNER = specified(
    (Tensor("x", "float32", ("batch", 8)),),
    (Tensor("hidden", "float32", ("batch", 16)), Tensor("scores", "float32", ("batch", 4))),
)


def test_litert_static_int8_of_an_output_that_is_read_inside(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Inner().eval()
    source = tmp_path / "fp32.tflite"
    litert_torch.convert(network, (torch.zeros(1, 8),)).export(str(source))
    litert._name_interface(source, INNER)
    feeds = {"x": np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)}
    for has_integers in (False, True):
        output = tmp_path / str(has_integers)
        output.mkdir()
        request = BuildRequest(
            spec=INNER,
            parameters={"recipe": "int8", "integer_interface": has_integers},
            source=source,
            calibration=feeds,
            output=output,
            log=print,
        )
        int8_static.build(request)
        session = litert_session.open_session(
            output / litert.FILE, threads=1, inputs=["x"], outputs=["hidden", "scores"]
        )
        assert min(snr(network, session.run(feeds), feeds)) > 30


# --- LiteRT: the number of steps -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape", "steps"),
    [
        (nn.LSTM(4, 4, num_layers=2, bidirectional=True), (7, 1, 4), 28),
        (nn.GRU(4, 4, batch_first=True), (1, 7, 4), 7),
        (nn.RNN(4, 4, batch_first=True), (7, 4), 7),
        (nn.Sequential(nn.GRUCell(4, 4), nn.GRUCell(4, 4)), (1, 4), 2),
        (nn.Linear(4, 4), (1, 4), 0),
    ],
)
def test_steps_of_recurrent_layers_are_counted(layer: nn.Module, shape: tuple[int, ...], steps: int) -> None:
    assert recurrent_steps(layer, (torch.zeros(shape),)) == steps


def test_litert_refuses_more_steps_than_it_converts_in_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = replace(SEQUENCE, inputs=(Tensor("x", "float32", ("batch", 600, 16)),))
    monkeypatch.setattr(litert, "load_network", lambda _spec, _path: Recurrent(nn.LSTM).eval())
    request = BuildRequest(
        spec=spec,
        parameters={},
        source=tmp_path,
        output=tmp_path,
        log=print,
    )
    with pytest.raises(Refused, match="recurrent layers take 2400 steps for one sample, and a LiteRT file has operat"):
        litert.build_model(request)


# --- CoreML: pooling, recurrent layers, sizes that move ------------------------------------------------


class Pooled(nn.Module):
    """Pools without a stride, at any size."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.max_pool2d(self.layer(x), 2).mean((2, 3))


class Cells(nn.Module):
    """A value for each cell of a picture, as detectors have them: more of them than fp16 counts one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(self.layer(x), 3).flatten(2)


class Steps(nn.Module):
    """Two recurrent layers, one of them in both directions, and the state of the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(6, 8, batch_first=True, bidirectional=True)
        self.second = nn.GRU(16, 8, batch_first=True)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        steps, _ = self.first(x)
        steps, last = self.second(steps)
        return steps, last[0]


class Cell(nn.Module):
    """One step, with the state in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(6, 8)

    def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h, c = self.cell(x, (h, c))
        return h, c


POOLED = replace(
    specified(
        (Tensor("x", "float32", ("batch", 3, "height", "width")),),
        (Tensor("y", "float32", ("batch", 4)),),
    ),
    axis_ranges={"height": (8, 16, 32), "width": (8, 16, 32)},
)
CELLS = replace(
    POOLED,
    outputs=(Tensor("y", "float32", ("batch", 4, "cells")),),
    axis_ranges={"height": (8, 16, 240), "width": (8, 16, 320)},
)
STEPS = specified(
    (Tensor("x", "float32", ("batch", 4, 6)),),
    (Tensor("y", "float32", ("batch", 4, 8)), Tensor("h", "float32", ("batch", 8))),
)
STATES = (Tensor("h", "float32", ("batch", 8)), Tensor("c", "float32", ("batch", 8)))
CELL = specified(
    (Tensor("x", "float32", ("batch", 6)), *STATES),
    (Tensor("h_next", "float32", ("batch", 8)), Tensor("c_next", "float32", ("batch", 8))),
)


def packaged(network: nn.Module, spec: ModelSpec, folder: Path) -> Session:
    """The network's package, in the evaluator."""
    exported = coreml._export(network, spec, None)
    model = coreml._converted(exported, spec, None, "iOS17")
    coreml.save(model, folder, spec, {"checkpoint_sha256": "0" * 64})
    inputs, outputs = [tensor.name for tensor in spec.inputs], [tensor.name for tensor in spec.outputs]
    return coreml.open_session(folder, threads=1, inputs=inputs, outputs=outputs, compute_units="ALL")


@pytest.mark.parametrize(
    ("kind", "spec", "sizes"),
    [
        (Pooled, POOLED, [(8, 8), (32, 12)]),
        (Cells, CELLS, [(8, 8), (183, 261)]),
        (Steps, STEPS, [()]),
        (Cell, CELL, [()]),
    ],
)
def test_coreml_computes_the_same(
    kind: type[nn.Module], spec: ModelSpec, sizes: list[tuple[int, ...]], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = kind().eval()
    session = packaged(network, spec, tmp_path)
    rng = np.random.default_rng(0)
    for size in sizes:
        named = {"batch": 3} | dict(zip(("height", "width"), size, strict=False))
        feeds = {}
        for tensor in spec.inputs:
            shape = [axis if isinstance(axis, int) else named[axis] for axis in tensor.shape]
            feeds[tensor.name] = rng.normal(size=shape).astype(np.float32)
        assert min(snr(network, session.run(feeds), feeds)) > 50


def test_coreml_refuses_any_number_of_steps() -> None:
    moving = replace(
        STEPS,
        inputs=(Tensor("x", "float32", ("batch", "time", 6)),),
        axis_ranges={"time": (2, 4, 9)},
    )
    with pytest.raises(Refused, match="step by step, so their number is fixed, and the axis time is dynamic"):
        coreml._export(Steps().eval(), moving, None)


def test_coreml_converts_after_a_conversion_that_failed(tmp_path: Path) -> None:
    coreml._tensor_inputs(STEPS)  # which is as far as one comes that fails
    assert packaged(Cell().eval(), CELL, tmp_path)


# --- ONNX: int8 of recurrent weights -------------------------------------------------------------------


class Recurrent(nn.Module):
    """One recurrent layer, which holds most of the weights, and a layer on its last step."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.layer = kind(16, 64, num_layers=2, batch_first=True, bidirectional=True)
        self.last = nn.Linear(128, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps, _ = self.layer(x)
        scores: torch.Tensor = self.last(steps[:, -1])
        return scores


SEQUENCE = specified(
    (Tensor("x", "float32", ("batch", 6, 16)),),
    (Tensor("scores", "float32", ("batch", 4)),),
)


@cache
def recurrent(kind: str) -> tuple[nn.Module, bytes]:
    """A network with layers of that class, and its graph."""
    torch.manual_seed(0)
    network = Recurrent(getattr(nn, kind)).eval()
    return network, onnx_format.export(network, SEQUENCE, 20).SerializeToString()


def dynamic_int8(kind: str, folder: Path, per_channel: bool = True) -> BuildRequest:
    source, output = folder / "fp32.onnx", folder / "int8"
    output.mkdir()
    source.write_bytes(recurrent(kind)[1])
    return BuildRequest(
        spec=SEQUENCE,
        parameters={"recipe": "int8", "weights": "int8", "per_channel": per_channel, "reduce_range": False},
        source=source,
        output=output,
        log=print,
    )


@pytest.mark.parametrize("per_channel", [False, True])
def test_dynamic_int8_takes_lstms(per_channel: bool, tmp_path: Path) -> None:
    request = dynamic_int8("LSTM", tmp_path, per_channel)
    int8_dynamic.build(request)
    path = request.output / onnx_format.FILE
    held = weight_bytes(path)
    assert held["int8"] > 5 * held["fp32"]  # of biases
    session = onnx_session.open_session(path, threads=1, inputs=["x"], outputs=["scores"])
    feeds = {"x": np.random.default_rng(0).normal(size=(3, 6, 16)).astype(np.float32)}
    assert min(snr(recurrent("LSTM")[0], session.run(feeds), feeds)) > 25


def test_dynamic_int8_says_that_grus_have_no_kernel(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="100 % of the weights are in GRU, which ONNX Runtime has no int8 kernel for"):
        int8_dynamic.build(dynamic_int8("GRU", tmp_path))


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_int8_weights_take_recurrent_layers(kind: str, tmp_path: Path) -> None:
    request = dynamic_int8(kind, tmp_path)
    int8_weights.build(request)
    path = request.output / onnx_format.FILE
    held = weight_bytes(path)
    assert held["int8"] > 5 * held["fp32"]  # of biases and scales
    session = onnx_session.open_session(path, threads=1, inputs=["x"], outputs=["scores"])
    feeds = {"x": np.random.default_rng(0).normal(size=(3, 6, 16)).astype(np.float32)}
    assert min(snr(recurrent(kind)[0], session.run(feeds), feeds)) > 40


def test_litert_has_grus_in_int8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.GRUCell(16, 64), nn.Linear(64, 4)).eval()
    spec = specified((Tensor("x", "float32", ("batch", 16)),), (Tensor("y", "float32", ("batch", 4)),))
    monkeypatch.setattr(litert, "load_network", lambda _spec, _path: network)
    request = BuildRequest(
        spec=spec,
        parameters={"recipe": litert_weights.DYNAMIC_INT8.name},
        source=tmp_path,
        output=tmp_path,
        log=print,
    )
    litert.build_model(request)
    output = tmp_path / "int8"
    output.mkdir()
    facts = litert_weights.build(replace(request, source=tmp_path / litert.FILE, output=output))
    assert facts["quantized_weights_share"] > 0.9
    session = litert_session.open_session(output / litert.FILE, threads=1, inputs=["x"], outputs=["y"])
    feeds = {"x": np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)}
    assert min(snr(network, session.run(feeds), feeds)) > 30


# --- PyTorch: transposed convolutions ------------------------------------------------------------------


class Enlarging(nn.Module):
    """Convolutions, and a transposed one that an engine has no right kernel for."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))
        self.larger = nn.ConvTranspose2d(16, 3, 2, stride=2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        larger: torch.Tensor = self.larger(torch.relu(self.first(image)))
        return larger


@pytest.mark.parametrize("engine", ["x86", "qnnpack"])
def test_torch_int8_is_right_with_transposed_convolutions(engine: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Enlarging().eval()
    checkpoint = tmp_path / "enlarging.safetensors"
    save_file(network.state_dict(), checkpoint)
    feeds = {"image": np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32)}
    spec = specified((Tensor("image", "float32", ("batch", 3, 8, 8)),), (Tensor("y", "float32", ("batch", 3, 16, 16)),))
    flavour = {"engine": engine, "method": "minmax", "per_channel": True, "reduce_range": False, "recipe": "int8"}
    request = BuildRequest(
        spec=replace(spec, architecture="tests.toolchains.test_recurrent:Enlarging"),
        parameters=flavour,
        source=checkpoint,
        calibration=feeds,
        output=tmp_path,
        log=print,
    )
    torch_static.build(request)
    program = torchscript.open_session(
        tmp_path / torch_static.FILE, threads=1, inputs=["image"], outputs=["y"], engine=engine
    )
    assert min(snr(network, program.run(feeds), feeds)) > 25


# --- PyTorch and ExecuTorch: int8 that would be another's name -----------------------------------------


def lstm() -> nn.Module:
    return Recurrent(nn.LSTM)


class Words(nn.Module):
    """A table of embeddings that holds most of the weights, as those of small language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(100, 16)
        self.layer = nn.Linear(16, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.layer(self.table(x).mean(1))
        return scores


WORDS = replace(SEQUENCE, inputs=(Tensor("x", "int64", ("batch", 6)),))


@pytest.mark.parametrize(
    ("build", "instead"),
    [(torch_static.build, "onnx_int8_dynamic"), (executorch_int8.build_static, "litert_int8_dynamic")],
    ids=["torch_int8", "executorch_int8_static"],
)
@pytest.mark.parametrize(
    ("network", "spec", "share"),
    [(lstm, SEQUENCE, 0), (Words, WORDS, 15)],
    ids=["recurrent", "embeddings"],
)
def test_static_int8_is_refused_before_it_observes_where_other_layers_hold_the_weights(
    network: Callable[[], nn.Module],
    spec: ModelSpec,
    share: int,
    build: Callable[[BuildRequest], object],
    instead: str,
    tmp_path: Path,
) -> None:
    checkpoint = tmp_path / "any.safetensors"
    save_file(network().state_dict(), checkpoint)
    flavour = {"engine": "x86", "method": "minmax", "per_channel": True, "reduce_range": False, "recipe": "int8"}
    request = BuildRequest(
        spec=replace(spec, architecture=f"tests.toolchains.test_recurrent:{network.__name__}"),
        parameters=flavour,
        source=checkpoint,
        output=tmp_path,
        log=print,
    )
    with pytest.raises(
        Refused, match=f"at most {share} % of the bytes of the weights would be int8 .* [Uu]se {instead}"
    ):
        build(request)


# --- ExecuTorch: what it converts to int8 and cannot run --------------------------------------------------


class Twice(nn.Module):
    """A convolution and PReLU over a picture and over its half, as detectors with one head for all sizes have them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.slopes = nn.Conv2d(3, 8, 3), nn.PReLU(8)
        nn.init.uniform_(self.slopes.weight, -0.5, 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        half = nn.functional.avg_pool2d(3 * x, 2)
        return self.slopes(self.layer(x)).mean((2, 3)) + self.slopes(self.layer(half)).mean((2, 3))


TWICE = specified((Tensor("x", "float32", ("batch", 3, 10, 10)),), (Tensor("y", "float32", ("batch", 8)),))


@pytest.mark.slow
def test_executorch_runs_int8_of_layers_called_twice_and_of_prelu(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Twice().eval()
    checkpoint = tmp_path / "any.safetensors"
    save_file(network.state_dict(), checkpoint)
    feeds = {"x": np.random.default_rng(0).normal(1, 1, size=(4, 3, 10, 10)).astype(np.float32)}
    request = BuildRequest(
        spec=replace(TWICE, architecture="tests.toolchains.test_recurrent:Twice"),
        parameters={"method": "minmax", "recipe": "int8"},
        source=checkpoint,
        calibration=feeds,
        output=tmp_path,
        log=print,
    )
    executorch_int8.build_static(request)
    program = executorch.open_session(tmp_path / executorch.FILE, threads=1, inputs=["x"], outputs=["y"])
    assert min(snr(network, program.run(feeds), feeds)) > 30


@pytest.mark.slow
def test_layers_called_twice_are_trained_as_one_and_run_in_int8(tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = replace(TWICE, architecture="tests.toolchains.test_recurrent:Twice")
    prepared = qat.prepare(Twice().eval(), spec)
    convolutions = [node for node in prepared.graph.nodes if "conv2d" in str(node.target)]
    assert [node.args[1].op for node in convolutions] == ["call_module"] * 2, "both read weights in int8"
    assert [name for name, _ in prepared.named_parameters()] == ["layer.weight", "layer.bias", "slopes.weight"]
    images = np.random.default_rng(0).normal(1, 1, size=(4, 3, 10, 10)).astype(np.float32)
    prepared(torch.from_numpy(images)).square().sum().backward()
    torch.optim.SGD(prepared.parameters(), lr=1e-4).step()
    prepared(torch.from_numpy(images))  # ranges of the weights that were trained
    prepared.apply(disable_observer)
    save_file(prepared.state_dict(), tmp_path / qat.WEIGHTS)
    request = BuildRequest(spec, {"recipe": "int8"}, source=tmp_path, output=tmp_path, log=print)
    qat.build_executorch(request)
    program = executorch.open_session(tmp_path / executorch.FILE, threads=1, inputs=["x"], outputs=["y"])
    assert min(snr(prepared, program.run({"x": images}), {"x": images})) > 25
