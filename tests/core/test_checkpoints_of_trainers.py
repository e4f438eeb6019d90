"""Checkpoints as trainers leave them: what of a file is read, what is said of it, and what is refused."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from edge_assets.core.checkpoint import load, load_model, save_plain
from edge_assets.errors import CheckpointError

TINY = "tests.tiny.network:TinyNet"
HERE = "tests.core.test_checkpoints_of_trainers"
State = dict[str, torch.Tensor]


class Tied(nn.Module):
    """An embedding that is the output's weight too."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 4)
        self.out = nn.Linear(4, 7, bias=False)
        self.out.weight = self.words.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.words(ids))


def normed_older() -> nn.Module:
    """A layer with weight_norm as it was before parametrizations."""
    return nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(3, 5)))


def normed_newer() -> nn.Module:
    """The same layer with the parametrization."""
    return nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 5)))


class Masked(nn.Module):
    """A layer beside a mask that is infinite in every checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))


@pytest.fixture(scope="module")
def state(checkpoint_file: Path) -> State:
    return load_file(checkpoint_file)


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def prefixed(state: Mapping[str, torch.Tensor], prefix: str) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def halved(state: Mapping[str, torch.Tensor]) -> State:
    """Other weights of the same form: as an average of them is."""
    return {name: tensor / 2 if tensor.is_floating_point() else tensor.clone() for name, tensor in state.items()}


def is_read(path: Path, state: Mapping[str, torch.Tensor], architecture: str = TINY, **choice: Any) -> tuple[str, ...]:
    """How it was read, having made sure that it is these weights."""
    loaded = load(architecture, path, **choice)
    own = loaded.model.state_dict()
    assert own.keys() >= state.keys()
    assert all(torch.equal(own[name], tensor) for name, tensor in state.items())
    assert not loaded.model.training
    return loaded.remarks


NESTED: dict[str, tuple[Callable[[State], object], tuple[str, ...]]] = {
    "plain": (lambda state: state, ()),
    "an ordered dict": (OrderedDict, ()),
    "DataParallel": (lambda state: prefixed(state, "module."), ("'module.' taken off the names",)),
    "torch.compile": (lambda state: prefixed(state, "_orig_mod."), ("'_orig_mod.' taken off the names",)),
    "both": (lambda state: prefixed(state, "_orig_mod.module."), ("'_orig_mod.module.' taken off the names",)),
    "a trainer's loop": (
        lambda state: {
            "epoch": 3,
            "model_state_dict": state,
            "optimizer_state_dict": {"state": {0: {"exp_avg": state["classifier.bias"]}}, "param_groups": []},
            "loss": 0.5,
        },
        ("read under 'model_state_dict'", "not read: epoch, optimizer_state_dict, loss"),
    ),
    "Lightning": (
        lambda state: {
            "epoch": 3,
            "global_step": 100,
            "pytorch-lightning_version": "2.5.0",
            "state_dict": {**prefixed(state, "net."), "criterion.weight": torch.ones(10)},
            "loops": {"fit_loop": {"state_dict": {}}},
            "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
            "optimizer_states": [{"state": {0: {"exp_avg": state["classifier.bias"]}}, "param_groups": []}],
            "lr_schedulers": [{"last_epoch": 3}],
            "hyper_parameters": {"lr": 1e-3},
        },
        ("read under 'state_dict'", "'net.' taken off the names"),
    ),
    "twice the same": (
        lambda state: {"model": state, "state_dict": state},
        ("read under 'model'", "not read: state_dict"),
    ),
    "an average": (
        lambda state: {**prefixed(state, "module."), "n_averaged": torch.tensor(7)},
        ("'module.' taken off the names", "not read: n_averaged"),
    ),
    "deeper": (lambda state: {"train": {"net": {"weights": state}}}, ("read under 'train.net.weights'",)),
    "another model beside": (
        lambda state: {"generator": state, "discriminator": {"layer.weight": torch.ones(3)}},
        ("read under 'generator'", "not read: discriminator"),
    ),
}


@pytest.mark.parametrize(("wrap", "remarks"), NESTED.values(), ids=NESTED)
@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".bin"])
def test_what_trainers_save_is_read_and_said(
    tmp_path: Path, state: State, wrap: Callable[[State], object], remarks: tuple[str, ...], suffix: str
) -> None:
    found = is_read(saved(wrap(state), tmp_path / f"model{suffix}"), state)
    assert found[: len(remarks)] == remarks


def test_names_of_wrapped_parts_are_found(tmp_path: Path, state: State) -> None:
    def wrapped(name: str) -> str:
        return name.replace("features.", "features._orig_mod.").replace("classifier.", "classifier.module.")

    path = saved({wrapped(name): tensor for name, tensor in state.items()}, tmp_path / "parts.pt")
    assert is_read(path, state) == ("wrappers' names taken out",)


def test_where_several_fit_the_spec_chooses(tmp_path: Path, state: State) -> None:
    average = halved(state)
    path = saved({"model": state, "ema": {"module": prefixed(average, "module.")}}, tmp_path / "both.pt")
    with pytest.raises(CheckpointError, match=r"several weights that fit, 'model' and 'ema.module': choose by"):
        load_model(TINY, path)
    assert is_read(path, state, weights="model")[0] == "read under 'model'"
    assert is_read(path, average, weights="ema.module")[0] == "read under 'ema.module'"
    assert is_read(path, average, weights="ema")[0] == "read under 'ema.module'"
    with pytest.raises(
        CheckpointError, match="has no weights 'swa', which the spec asks for: it has ema.module, model"
    ):
        load_model(TINY, path, "swa")


def test_prefixes_are_chosen_between_too(tmp_path: Path, state: State) -> None:
    average = halved(state)
    path = tmp_path / "both.safetensors"
    save_file({**prefixed(state, "student."), **prefixed(average, "teacher.")}, path)
    with pytest.raises(CheckpointError, match=r"'student' and 'teacher': choose by ModelSpec\(weights="):
        load_model(TINY, path)
    assert is_read(path, average, weights="teacher")[0] == "'teacher.' taken off the names"


def test_a_choice_is_not_left_out_silently(tmp_path: Path, state: State) -> None:
    path = saved(state, tmp_path / "plain.pt")
    with pytest.raises(CheckpointError, match="has no weights 'ema', which the spec asks for: it is one state dict"):
        load_model(TINY, path, "ema")


def test_a_state_dict_that_fits_as_it_is_is_not_looked_through(tmp_path: Path) -> None:
    """Linear has names that end every layer's."""
    weights = {"weight": torch.ones(2, 2), "bias": torch.ones(2)}
    path = saved(weights, tmp_path / "linear.pt")
    assert is_read(path, weights, f"{HERE}:linear") == ()
    with pytest.raises(CheckpointError, match="unexpected keys: other.bias, other.weight"):
        load_model(f"{HERE}:linear", saved(weights | prefixed(weights, "other."), tmp_path / "more.pt"))


def linear() -> nn.Module:
    """One layer."""
    return nn.Linear(2, 2)


def test_what_is_missing_of_the_nearest_is_named(tmp_path: Path, state: State) -> None:
    less = {name: tensor for name, tensor in state.items() if name != "classifier.bias"}
    path = saved({"model_state_dict": prefixed(less, "module."), "epoch": 1}, tmp_path / "less.pt")
    with pytest.raises(
        CheckpointError,
        match=r"is not of the architecture .*\. missing keys: classifier.bias\. Name another with --checkpoint",
    ):
        load_model(TINY, path)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_cast_is_said(tmp_path: Path, state: State, kind: torch.dtype) -> None:
    low = {name: tensor.to(kind) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    path = tmp_path / "low.safetensors"
    save_file(low, path)
    loaded = load(TINY, path)
    assert loaded.remarks == (f"cast from {str(kind).removeprefix('torch.')}",)
    assert loaded.is_plain


def test_what_is_tied_need_be_there_once(tmp_path: Path) -> None:
    weight = torch.randn(7, 4)
    for name in ("words.weight", "out.weight"):
        path = tmp_path / f"{name}.safetensors"
        save_file({name: weight}, path)
        (remark,) = is_read(path, {"words.weight": weight, "out.weight": weight}, f"{HERE}:Tied")
        assert remark.endswith("tied to what is there")


@pytest.mark.parametrize("architecture", ["normed_older", "normed_newer"])
@pytest.mark.parametrize("wrote", [normed_older, normed_newer])
def test_both_forms_of_weight_norm_are_read_by_both(
    tmp_path: Path, architecture: str, wrote: Callable[[], nn.Module]
) -> None:
    writer = wrote()
    path = saved(writer.state_dict(), tmp_path / "normed.pt")
    loaded = load(f"{HERE}:{architecture}", path)
    data = torch.randn(4, 3)
    assert torch.allclose(loaded.model(data), writer(data), atol=1e-6)
    other = architecture != wrote.__name__
    assert loaded.remarks == (("weight_norm in its other form",) if other else ())


def test_counters_of_batch_norm_may_be_missing_as_in_older_files(tmp_path: Path, state: State) -> None:
    older = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    path = tmp_path / "older.safetensors"
    save_file(older, path)
    assert is_read(path, older) == ()


def test_what_the_architecture_sets_to_infinity_may_be_infinite(tmp_path: Path) -> None:
    path = saved(Masked().state_dict(), tmp_path / "masked.pt")
    load_model(f"{HERE}:Masked", path)
    broken = Masked().state_dict() | {"mask": torch.full((2, 2), torch.nan)}
    with pytest.raises(CheckpointError, match="has NaN or infinite weights in mask"):
        load_model(f"{HERE}:Masked", saved(broken, tmp_path / "nan.pt"))


def test_weights_are_written_plainly_for_what_is_made_from_them(tmp_path: Path, state: State) -> None:
    path = saved({"ema": prefixed(state, "module.")}, tmp_path / "ema.ckpt")
    loaded = load(TINY, path)
    assert not loaded.is_plain
    save_plain(loaded.weights, tmp_path / "plain.safetensors")
    again = load(TINY, tmp_path / "plain.safetensors")
    assert (again.is_plain, again.remarks) == (True, ())
    tied = load(f"{HERE}:Tied", saved(Tied().state_dict(), tmp_path / "tied.pt"))
    save_plain(tied.weights, tmp_path / "tied.safetensors")
    load_model(f"{HERE}:Tied", tmp_path / "tied.safetensors")


def test_a_pickled_object_beside_the_weights_is_refused_and_named(tmp_path: Path, state: State) -> None:
    path = saved({"state_dict": state, "hyper_parameters": Path("x")}, tmp_path / "objects.ckpt")
    with pytest.raises(
        CheckpointError, match=r"pickled objects that could run code \(pathlib.*Save the state dict alone"
    ):
        load_model(TINY, path)


def test_subnormal_weights_are_counted_and_set_to_0_where_that_is_asked_for(tmp_path: Path, state: State) -> None:
    name = next(name for name, tensor in state.items() if tensor.dim() > 1)
    few = state | {name: state[name].clone()}
    few[name].view(-1)[:3] = torch.tensor([1e-40, -1e-39, 0.0])
    path = saved(few, tmp_path / "few.pt")
    kept = load(TINY, path)
    assert kept.is_plain
    assert kept.remarks == (
        "2 weights are subnormal, so close to 0 that many processors compute them slowly: "
        "ModelSpec(flush_subnormals=True) sets them to 0",
    )
    assert torch.equal(kept.model.state_dict()[name], few[name])
    flushed = load(TINY, path, flush_subnormals=True)
    assert flushed.remarks == (
        "2 weights are subnormal, so close to 0 that many processors compute them slowly: set to 0",
    )
    assert not flushed.is_plain, "what is made from it is made from other numbers than the file's"
    assert flushed.model.state_dict()[name].view(-1)[:3].tolist() == [0.0, 0.0, 0.0]
    save_plain(flushed.weights, tmp_path / "flushed.safetensors")
    again = load(TINY, tmp_path / "flushed.safetensors")
    assert (again.is_plain, again.remarks) == (True, ())
    assert torch.equal(again.model.state_dict()[name], flushed.model.state_dict()[name])
