"""Quantization-aware training: one trained model, exported twice, resumable, and refused where it cannot be trusted."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file

from edge_assets.core.types import Built
from edge_assets.core.verify import accuracy
from edge_assets.errors import DataError, Refused
from edge_assets.families.families import FAMILIES
from edge_assets.pipeline.cell import Cell
from edge_assets.spec.model import Dataset, FineTuning, ModelSpec
from edge_assets.targets.project import target
from edge_assets.toolchains.pytorch import qat
from edge_assets.toolchains.pytorch.folding import fold_batch_norm, unfolded_calls
from resources import checkpoints
from resources.store import ArtifactStore, open_store
from tests.facts import said
from tests.tiny import losses
from tests.tiny.spec import TINY, TINY_QAT

pytest.importorskip("executorch")
assert TINY_QAT.finetuning is not None
RECIPE: FineTuning = TINY_QAT.finetuning
X86, ARM, PHONE = "x86-64-vnni", "graviton3", "pixel-8"


class Killed(BaseException):
    """Ends a build as a signal would."""


def finetuned(recipe: FineTuning) -> ModelSpec:
    """TINY_QAT with another fine-tuning recipe."""
    return replace(TINY_QAT, finetuning=recipe)


@pytest.fixture(scope="module")
def cell(store: ArtifactStore, checkpoint_file: Path) -> Callable[..., Cell]:
    def make(
        spec: ModelSpec = TINY_QAT,
        on: str = X86,
        into: ArtifactStore = store,
        log: Callable[[str], None] = lambda _line: None,
    ) -> Cell:
        family = FAMILIES[target(on).family].of(spec)
        return Cell(spec, family, target(on), checkpoints.register(into, spec.name, str(checkpoint_file)), into, log)

    return make


def build(cell: Cell, name: str) -> Built:
    """A variant, its source first."""
    return cell.build(name)


def trained_file(cell: Cell, built: Built) -> Path:
    assert built.artifact is not None, built.build.refused
    return cell.store.checkout(built.artifact) / qat.WEIGHTS


def outputs(cell: Cell, name: str) -> np.ndarray:
    """A variant's logits [597, 10] in its own runtime on the evaluation data."""
    built = build(cell, name)
    assert built.artifact is not None, built.build.refused
    with cell.verification.loadable(built.runtime, built.build).opened(threads=1) as session:
        return accuracy.run_all(session, cell.data.feeds(cell.data.evaluation))["logits"]


def test_without_its_extra_training_and_exports_are_unavailable(
    cell: Callable[..., Cell], uninstall: Callable[[str], None]
) -> None:
    uninstall("torchao")
    trained, exported = build(cell(), "qat_trained"), build(cell(), "onnx_int8_qat")
    assert trained.facts.unavailable
    assert exported.facts.unavailable
    assert trained.build.refused == "torchao is not installed: pip install 'edge-assets[executorch]'"
    assert build(cell(), "onnx_model").artifact is not None


# --- one trained model, two exports --------------------------------------------------------------------


def test_both_exports_are_the_one_trained_model(cell: Callable[..., Cell]) -> None:
    on_cpu, on_phone = cell(), cell(on=PHONE)
    assert build(on_cpu, "qat_trained").build.sha256 == build(on_phone, "qat_trained").build.sha256
    first, second = outputs(on_cpu, "onnx_int8_qat"), outputs(on_phone, "executorch_int8_qat")
    cosines = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    assert cosines.min() > 0.999
    assert (first.argmax(1) == second.argmax(1)).mean() > 0.995
    for built in (build(on_cpu, "onnx_int8_qat"), build(on_phone, "executorch_int8_qat")):
        assert built.accuracy is not None
        assert built.accuracy.drop_points <= 1.0


def test_the_flavour_follows_the_target_and_changes_no_value(cell: Callable[..., Cell]) -> None:
    types = onnx.TensorProto
    expected = {
        "x86-64-vnni": ("u8s8", types.UINT8, types.INT8),
        "x86-64-avx2": ("u8u8", types.UINT8, types.UINT8),
        "graviton3": ("s8s8", types.INT8, types.INT8),
    }
    logits = {}
    for on, (flavour, activations, weights) in expected.items():
        built = build(cell(on=on), "onnx_int8_qat")
        assert built.artifact is not None
        assert built.recipe == f"int8_qat_qdq_{flavour}_perchannel"
        assert built.build.facts["inputs"] == {"image": ["batch", 1, 8, 8]}
        graph = onnx.load(cell().store.checkout(built.artifact)).graph
        tensors = {tensor.name: tensor.data_type for tensor in graph.initializer}
        assert {tensors[n.input[2]] for n in graph.node if n.op_type == "QuantizeLinear"} == {activations}
        assert {tensors[n.input[0]] for n in graph.node if n.input[0] in tensors} == {weights}
        logits[flavour] = outputs(cell(on=on), "onnx_int8_qat")
    steps = np.diff(np.unique(logits["u8s8"])).min()  # of the output's quantization
    for other in ("u8u8", "s8s8"):
        assert np.abs(logits["u8s8"] - logits[other]).max() < 1.5 * steps
        assert (logits["u8s8"] == logits[other]).mean() > 0.99


def test_every_product_runs_in_integers(cell: Callable[..., Cell], tmp_path: Path) -> None:
    artifact = build(cell(), "onnx_int8_qat").artifact
    assert artifact is not None
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    onnxruntime.InferenceSession(cell().store.checkout(artifact), options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node]
    assert operators.count("QLinearConv") == 3
    assert operators.count("QGemm") == 1
    assert not {"Conv", "Gemm", "MatMul"} & set(operators)


def test_only_a_model_with_a_recipe_has_the_variants(cell: Callable[..., Cell]) -> None:
    names = {"qat_trained", "onnx_int8_qat", "executorch_int8_qat"}
    for on in (X86, PHONE):
        assert not names & {variant.name for variant in cell(TINY, on).family.variants}
        assert "qat_trained" in cell(on=on).family.intermediates


def test_recipes_know_the_architecture_the_data_and_the_loss(cell: Callable[..., Cell]) -> None:
    trained, exported = build(cell(), "qat_trained").build.recipe, build(cell(), "onnx_int8_qat").build.recipe
    assert "architecture" in trained.inputs
    assert "architecture" in exported.inputs
    assert "training" in trained.inputs
    assert "loss" not in trained.inputs
    own = finetuned(replace(RECIPE, loss="tests.tiny.losses:margin"))
    assert "loss" in build(cell(own), "qat_trained").build.recipe.inputs
    assert {"torch", "torchao", "executorch"} <= set(trained.tools)


# --- training ------------------------------------------------------------------------------------------


def test_training_is_watched_and_drawn(cell: Callable[..., Cell], store: ArtifactStore) -> None:
    built = build(cell(), "qat_trained")
    assert built.artifact is not None
    assert built.evidence is None
    folder = store.checkout(built.artifact)
    history = json.loads((folder / qat.HISTORY).read_text())
    assert [epoch["number"] for epoch in history["epochs"]] == [0, 1, 2, 3]
    assert history["best_epoch"] == min(history["epochs"][1:], key=lambda epoch: epoch["held_out_loss"])["number"]
    assert all(0 <= epoch["held_out_accuracy"] <= 1 for epoch in history["epochs"])
    assert (folder / qat.PLOT).read_bytes().startswith(b"\x89PNG")


def test_a_killed_training_goes_on_and_ends_with_the_same_weights(cell: Callable[..., Cell], tmp_path: Path) -> None:
    def kill(line: str) -> None:
        if line.startswith("epoch 3 of 3, step 2"):
            raise Killed

    fresh = open_store(str(tmp_path / "store"), tmp_path / "cache")
    with pytest.raises(Killed):
        build(cell(into=fresh, log=kill), "qat_trained")
    lines: list[str] = []
    resumed = build(cell(into=fresh, log=lines.append), "qat_trained")
    assert "fine-tuning goes on after epoch 2 of 3" in lines
    assert not any(line.startswith(("epoch 1", "epoch 2")) for line in lines)
    assert any(line.startswith("epoch 3 of 3, step") for line in lines)
    uninterrupted = build(cell(), "qat_trained")
    assert trained_file(cell(), uninterrupted).read_bytes() == trained_file(cell(into=fresh), resumed).read_bytes()
    assert not list((tmp_path / "cache" / "kept").iterdir()), "nothing is left of a finished training"


def test_another_seed_trains_another_model(cell: Callable[..., Cell]) -> None:
    first, second = cell(), cell(finetuned(replace(RECIPE, seed=1)))
    weights = [load_file(trained_file(c, build(c, "qat_trained"))) for c in (first, second)]
    assert not np.array_equal(weights[0]["classifier.weight"], weights[1]["classifier.weight"])


def test_divergence_before_an_epoch_is_refused_with_advice(cell: Callable[..., Cell]) -> None:
    hot = cell(finetuned(replace(RECIPE, learning_rate=1e30)))
    refused = build(hot, "qat_trained").build.refused or ""
    assert "fine-tuning diverged before any epoch was finished: the loss is nan in epoch 1, step" in refused
    assert "Lower finetuning.learning_rate (1e+30)" in refused
    assert "there is no qat_trained to make it from" in (build(hot, "onnx_int8_qat").build.refused or "")


@pytest.mark.slow
def test_divergence_later_keeps_the_best_epoch(cell: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "CALLS", 0)
    lines: list[str] = []
    late = cell(finetuned(replace(RECIPE, loss="tests.tiny.losses:breaks_late")), log=lines.append)
    built = build(late, "qat_trained")
    assert said(built)["stopped"].startswith("the loss is nan in epoch 2, step 3 of 5; epoch 1 is kept.")
    assert said(built)["best_epoch"] == 1
    assert any(line.startswith("fine-tuning diverged: the loss is nan in epoch 2") for line in lines)
    assert all(np.isfinite(array).all() for array in load_file(trained_file(late, built)).values())
    exported = build(late, "onnx_int8_qat")
    assert exported.accuracy is not None
    assert exported.accuracy.drop_points <= 1.0


def test_the_graph_that_trains_has_no_batch_norm_and_keeps_its_dropout() -> None:
    generator = torch.Generator().manual_seed(0)
    normalisation = torch.nn.BatchNorm2d(4)
    assert normalisation.running_mean is not None
    normalisation.running_mean += torch.rand(4, generator=generator)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3),
        normalisation,
        torch.nn.Dropout(0.2),
        torch.nn.BatchNorm2d(4),
        torch.nn.Flatten(),
        torch.nn.Linear(144, 10),
    ).eval()
    images = torch.rand(5, 1, 8, 8, generator=generator)
    exported = torch.export.export(network, (images,), strict=False).module()
    assert fold_batch_norm(exported) == 1, "the second follows no convolution"
    torch.testing.assert_close(exported(images), network(images))
    for training in (True, False):
        qat.switch(exported, training)
        arguments = {str(node.target): node.args for node in exported.graph.nodes}
        assert arguments["aten.dropout.default"][1:] == (0.2, training)
        assert arguments["aten.batch_norm.default"][5] is training
    torch.testing.assert_close(exported(images), network(images))


class Headed(torch.nn.Module):
    """One convolution on a picture and on its half, as in detectors, with one BatchNorm for both or one for each."""

    def __init__(self, norms: int) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 4, 3, bias=False)
        self.norms = torch.nn.ModuleList(torch.nn.BatchNorm2d(4) for _ in range(norms))
        for number, norm in enumerate(self.norms):
            torch.nn.init.uniform_(norm.get_buffer("running_mean"), number, number + 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        whole = self.norms[0](self.layer(x))
        half = self.norms[-1](self.layer(torch.nn.functional.avg_pool2d(x, 2)))
        return torch.cat((whole.mean((2, 3)), half.mean((2, 3))), dim=1)


def test_a_batch_norm_behind_each_call_is_folded_once_and_several_are_refused() -> None:
    torch.manual_seed(0)
    images = torch.rand(5, 1, 8, 8)
    network = Headed(1).eval()
    exported = torch.export.export(network, (images,), strict=False).module()
    assert fold_batch_norm(exported) == 2
    assert not unfolded_calls(exported)
    torch.testing.assert_close(exported(images), network(images))
    with pytest.raises(Refused, match=r"layer.weight is used by several calls with BatchNorms of their own"):
        qat.prepare(Headed(2).eval(), TINY_QAT)


# --- data that are refused before any training ---------------------------------------------------------


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ("wrong_training_labels", "training data: labels are outside 0..9: 'label' has 5 to 14"),
        ("float_training_labels", "training data: labels 'label' are float32, classes must be int64"),
        ("images_only", "training data: no field 'label' with the labels"),
        ("leaking_training", "training and evaluation data overlap: 7 samples are in both"),
        ("few", "training data: 10 samples, at least 128 are needed"),
    ],
)
def test_bad_training_data(cell: Callable[..., Cell], loader: str, message: str) -> None:
    for loss in ("cross_entropy", "tests.tiny.losses:margin"):
        bad = cell(finetuned(replace(RECIPE, data=Dataset(f"tests.tiny.data:{loader}"), loss=loss)))
        with pytest.raises(DataError, match=message):
            bad.reference.build()
