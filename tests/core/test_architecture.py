"""Architectures that somebody else has the code of: found without importing them, made with no weights and no code."""

import io
import json
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edge_assets.core.architecture import build_architecture
from edge_assets.core.checkpoint import load, load_model
from edge_assets.errors import CheckpointError, InvalidSpec, MissingTool, UnknownName, UserCodeError
from edge_assets.spec.architecture import Known, architecture_digest, fitting_digest, known, place
from edge_assets.spec.source import source_digest
from tests.tiny.network import TinyNet
from tests.tiny.spec import TINY

BERT = {
    "model_type": "bert",
    **{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
    **{"vocab_size": 50, "max_position_embeddings": 32, "num_labels": 3},
}


@pytest.fixture(autouse=True)
def _fresh() -> None:
    architecture_digest.cache_clear()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A folder with a config, as `save_pretrained` writes it."""
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(BERT))
    return folder


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TinyNet as `torch.export` saves it, for any batch."""
    path = tmp_path_factory.mktemp("program") / "tiny.pt2"
    batch = torch.export.Dim("batch", min=1, max=1024)
    exported = torch.export.export(TinyNet().eval(), (torch.zeros(2, 1, 8, 8),), dynamic_shapes={"image": {0: batch}})
    torch.export.save(exported, path)
    return path


# --- found ---------------------------------------------------------------------------------------------


def test_the_users_own_code_is_hashed_as_it_was() -> None:
    assert known(TINY.architecture) is None
    assert architecture_digest(TINY.architecture) == source_digest(TINY.architecture)
    assert fitting_digest(TINY) == source_digest(TINY.architecture)


def test_arguments_of_a_network_are_what_they_are_written_as() -> None:
    found = known("timm:resnet18?num_classes=10&in_chans=1&drop_rate=0.1&norm_layer=layernorm&features_only=False")
    assert found == Known(
        "timm",
        "resnet18",
        {"num_classes": 10, "in_chans": 1, "drop_rate": 0.1, "norm_layer": "layernorm", "features_only": False},
    )


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("timm:", "not of the form 'timm:NETWORK"),
        ("timm:../x", "not of the form 'timm:NETWORK"),
        ("timm:resnet18?pretrained=True", "weights come from the checkpoints"),
        ("timm:resnet18?checkpoint_path=/etc/passwd", "weights come from the checkpoints"),
        ("transformers:AutoModel", "not of the form 'transformers:AutoModel...:FOLDER"),
        ("transformers:pipeline:models", "not of the form 'transformers:AutoModel...:FOLDER"),
        ("transformers:AutoModel:nowhere", "not found: .*nowhere/config.json"),
        ("networks/none.pt2", "not found: .*networks/none.pt2"),
    ],
)
def test_a_reference_that_is_wrong_is_named(reference: str, words: str) -> None:
    with pytest.raises(InvalidSpec, match=words):
        place(reference)


def test_what_is_told_apart_is_the_file_and_not_its_place(config: Path, program: Path, tmp_path: Path) -> None:
    reference = f"transformers:AutoModel:{config}"
    first = architecture_digest(reference)
    assert place(reference) == config / "config.json"
    (config / "config.json").write_text(json.dumps({**BERT, "num_hidden_layers": 2}))
    architecture_digest.cache_clear()
    assert architecture_digest(reference) != first
    copy = tmp_path / "copy.pt2"
    copy.write_bytes(program.read_bytes())
    assert architecture_digest(str(copy)) == architecture_digest(str(program))
    copy.write_bytes(b"x")
    architecture_digest.cache_clear()
    assert architecture_digest(str(copy)) != architecture_digest(str(program))


# --- made ----------------------------------------------------------------------------------------------


def test_a_library_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import PackageNotFoundError

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("edge_assets.spec.architecture.installed_version", missing)
    assert known("timm:resnet18"), "the model is registered all the same"
    for reference in ("timm:resnet18", "transformers:AutoModel:x"):
        with pytest.raises(MissingTool, match=r"is not installed: pip install 'edge-assets\[(timm|transformers)\]'"):
            build_architecture(reference)


@pytest.mark.skipif(find_spec("timm") is None, reason="timm is an extra")  # imported here it may not find its kernels
def test_a_network_of_timm_is_one_line(tmp_path: Path) -> None:
    reference = "timm:resnet18?num_classes=4&in_chans=1"
    model = build_architecture(reference)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "trained.pth.tar.pt")
    loaded = load_model(reference, tmp_path / "trained.pth.tar.pt")
    assert loaded(torch.zeros(2, 1, 32, 32)).shape == (2, 4)
    with pytest.raises(UnknownName, match="unknown network of timm .* 'resnet19'. Did you mean resnet"):
        build_architecture("timm:resnet19")


def test_a_network_of_transformers_is_one_line(config: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    whole = f"transformers:AutoModelForSequenceClassification:{config}"
    model: Any = build_architecture(whole)
    model.save_pretrained(tmp_path / "saved")
    ids, mask = torch.ones(2, 5, dtype=torch.int64), torch.ones(2, 5, dtype=torch.int64)
    loaded = load(whole, tmp_path / "saved" / "model.safetensors")
    outputs = loaded.model(ids, mask)
    assert isinstance(outputs, tuple)
    assert torch.equal(outputs[0], model.eval()(ids, mask)[0])
    encoder = load(f"transformers:AutoModel:{config}", tmp_path / "saved" / "model.safetensors")
    assert encoder.remarks[0] == "'bert.' taken off the names"
    assert "classifier.weight" in encoder.remarks[-1]
    with pytest.raises(InvalidSpec, match=f"transformers {transformers.__version__} has no class 'AutoModelForX'"):
        build_architecture(f"transformers:AutoModelForX:{config}")


def test_code_that_a_config_names_is_not_run(config: Path) -> None:
    pytest.importorskip("transformers")
    foreign = {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.Own"}}
    (config / "config.json").write_text(json.dumps(foreign))
    (config / "own.py").write_text("raise SystemError('code of a config ran')")
    with pytest.raises(UserCodeError) as error:
        build_architecture(f"transformers:AutoModel:{config}")
    assert "code of a config ran" not in str(error.value)


def test_an_exported_program_takes_the_weights_of_checkpoints(program: Path, checkpoint_file: Path) -> None:
    expected = load_model(TINY.architecture, checkpoint_file)
    loaded = load_model(str(program), checkpoint_file)
    for batch in (1, 5):
        image = torch.randn(batch, 1, 8, 8)
        assert torch.allclose(loaded(image), expected(image), atol=1e-6)
    assert isinstance(loaded, nn.Module)
    assert loaded.eval() is loaded


# --- programs that are not loaded ------------------------------------------------------------------------


def changed(program: Path, path: Path, **members: Any) -> Path:
    """The program with members changed, or added; None leaves one out."""
    with zipfile.ZipFile(program) as plain, zipfile.ZipFile(path, "w") as other:
        root = plain.namelist()[0].partition("/")[0]
        for name in plain.namelist():
            inner = name.partition("/")[2]
            if inner not in members:
                other.writestr(name, plain.read(name))
        for inner, content in members.items():
            other.writestr(f"{root}/{inner}", content)
    return path


def pickled(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


class Planted:
    """An object whose unpickling is noticed."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemError('code of a file ran')",)


@pytest.mark.parametrize(
    ("member", "content", "words"),
    [
        ("data/sample_inputs/model.pt", pickled(Planted()), "its sample inputs are no plain tensors"),
        ("data/constants/opaque_obj_0", b"x", "data/constants/opaque_obj_0 is nothing that torch.export.save writes"),
        ("data/constants/custom_obj_0", b"x", "data/constants/custom_obj_0 is nothing"),
        ("data/weights/model.pt", pickled(Planted()), "data/weights/model.pt is nothing"),
        ("data/aotinductor/model/model.so", b"x", "model.so is nothing that torch.export.save writes"),
        (
            "data/weights/model_weights_config.json",
            b'{"config": {"x": {"path_name": "weight_0", "use_pickle":true}}}',
            "names weights that are pickled",
        ),
    ],
)
def test_a_program_that_would_be_unpickled_or_executed_is_refused(
    program: Path, tmp_path: Path, member: str, content: bytes, words: str
) -> None:
    path = changed(program, tmp_path / "changed.pt2", **{member: content})
    with pytest.raises(CheckpointError, match=words) as error:
        build_architecture(str(path))
    assert str(error.value).startswith("exported program ")


def test_a_program_that_is_packed_or_cut_is_refused(program: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(program) as plain, zipfile.ZipFile(tmp_path / "bomb.pt2", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(CheckpointError, match="is compressed"):
        build_architecture(str(tmp_path / "bomb.pt2"))
    (tmp_path / "cut.pt2").write_bytes(program.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="is truncated"):
        build_architecture(str(tmp_path / "cut.pt2"))
