"""Folders as Hugging Face's libraries and trainers write them: sets of files that are one checkpoint, side files."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from upath import UPath

from edge_assets.errors import CheckpointError
from edge_assets.hashing import sha256_of
from resources import checkpoints
from resources.store import ArtifactStore, open_store

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state(checkpoint_file: Path) -> State:
    return load_file(checkpoint_file)


@pytest.fixture
def own(tmp_path: Path) -> ArtifactStore:
    return open_store(str(tmp_path / "store"), tmp_path / "cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def write_set(state: Mapping[str, torch.Tensor], folder: Path, count: int = 3, stem: str = "model") -> list[Path]:
    """The tensors in several files with their index, as `save_pretrained` writes what is large."""
    folder.mkdir(exist_ok=True)
    names = [f"{stem}-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
    parts: list[State] = [{} for _ in names]
    for position, (name, tensor) in enumerate(state.items()):
        parts[position % count][name] = tensor
    for name, part in zip(names, parts, strict=True):
        save_file(part, folder / name, metadata={"format": "pt"})
    weight_map = {name: file for file, part in zip(names, parts, strict=True) for name in part}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return [folder / name for name in names]


def keys(found: list[checkpoints.Checkpoint]) -> list[str]:
    return [checkpoint.key.rpartition("-")[0] for checkpoint in found]


def is_kept(store: ArtifactStore, checkpoint: checkpoints.Checkpoint, source: str, state: State) -> None:
    """Its bytes are had from the folder, and are the whole state dict."""
    path = checkpoints.fetch(store, checkpoint, source)
    loaded = load_file(path)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_a_set_of_files_is_one_checkpoint_once_it_is_complete(own: ArtifactStore, folder: Path, state: State) -> None:
    parts = write_set(state, folder)
    kept = parts[1].read_bytes()
    parts[1].unlink()
    assert checkpoints.discover(own, "tiny", str(folder)) == []
    assert checkpoints.scan(str(folder)).odd == {
        "model-00001-of-00003.safetensors": (
            "is one of 3 files, of which model-00002-of-00003.safetensors is not there yet"
        )
    }
    parts[1].write_bytes(kept)
    listing = checkpoints.scan(str(folder))
    assert listing.odd == {}
    (file,) = listing.files
    assert file.size == sum(part.stat().st_size for part in parts)
    (checkpoint,) = checkpoints.discover(own, "tiny", str(folder))
    assert keys([checkpoint]) == ["model"]
    assert checkpoints.discover(own, "tiny", str(folder)) == [], "it is known"
    is_kept(own, checkpoint, str(folder), state)


def test_a_set_changes_with_each_of_its_files(own: ArtifactStore, folder: Path, state: State) -> None:
    parts = write_set(state, folder)
    (first,) = checkpoints.discover(own, "tiny", str(folder))
    last = load_file(parts[2])
    save_file({name: tensor + 1 for name, tensor in last.items()}, parts[2])
    (second,) = checkpoints.discover(own, "tiny", str(folder))
    assert second.file.sha256 != first.file.sha256
    with pytest.raises(CheckpointError, match="has changed since"):
        checkpoints.fetch(own, first, str(folder))


def test_the_same_set_has_the_same_hash_everywhere(folder: Path, tmp_path: Path, state: State) -> None:
    write_set(state, folder)
    found = []
    for name in ("one", "two"):
        store = open_store(str(tmp_path / name), tmp_path / f"{name}-cache")
        found += checkpoints.discover(store, "tiny", str(folder))
    assert found[0].file == found[1].file


def test_a_tensor_in_two_files_of_a_set_is_refused(own: ArtifactStore, folder: Path, state: State) -> None:
    parts = write_set(state, folder, count=2)
    shutil.copy(parts[0], parts[1])
    with pytest.raises(CheckpointError, match="which another file of its set has too"):
        checkpoints.register(own, "tiny", str(parts[0]))


def test_a_person_may_name_any_file_of_a_set(own: ArtifactStore, folder: Path, state: State) -> None:
    parts = write_set(state, folder)
    first, last = (checkpoints.register(own, "tiny", str(part)) for part in (parts[0], parts[2]))
    assert first == last
    is_kept(own, first, str(folder), state)
    parts[1].unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00003.safetensors does not exist"):
        checkpoints.register(own, "tiny", str(parts[0]))


def trainers_folder(state: State, folder: Path, step: int) -> Path:
    """What `transformers.Trainer` leaves of a step."""
    own = folder / f"checkpoint-{step}"
    own.mkdir()
    save_file({name: tensor * step for name, tensor in state.items()}, own / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "trainer_state.json"):
        torch.save({"state": step}, own / name)
    (own / "config.json").write_text("{}")
    return own


def test_folders_of_a_trainer_are_checkpoints_by_the_names_of_the_folders(
    own: ArtifactStore, folder: Path, state: State
) -> None:
    for step in (1000, 500):
        trainers_folder(state, folder, step)
    write_set({name: tensor * 7 for name, tensor in state.items()}, folder / "merged")
    (folder / "runs").mkdir()
    (folder / "runs" / "events.out").write_text("")
    listing = checkpoints.scan(str(folder))
    assert listing.odd == {}, "a trainer's own files are in nobody's way"
    found = checkpoints.discover(own, "tiny", str(folder))
    assert keys(found) == ["checkpoint-500", "checkpoint-1000", "merged"]
    assert [checkpoint.source for checkpoint in found] == [
        "checkpoint-500/model.safetensors",
        "checkpoint-1000/model.safetensors",
        "merged/model-00001-of-00003.safetensors",
    ]
    is_kept(own, found[0], str(folder), {name: tensor * 500 for name, tensor in state.items()})
    is_kept(own, found[2], str(folder), {name: tensor * 7 for name, tensor in state.items()})
    assert checkpoints.discover(own, "tiny", str(folder)) == []


def test_of_both_formats_safetensors_are_read_and_an_adapter_is_none(folder: Path, state: State) -> None:
    torch.save(state, trainers_folder(state, folder, 1) / "pytorch_model.bin")
    (folder / "older").mkdir()
    torch.save(state, folder / "older" / "pytorch_model.bin")
    (folder / "lora").mkdir()
    save_file(state, folder / "lora" / "adapter_model.safetensors")
    listing = checkpoints.scan(str(folder))
    assert [file.name for file in listing.files] == ["checkpoint-1/model.safetensors", "older/pytorch_model.bin"]
    assert list(listing.odd) == ["lora/adapter_model.safetensors"]
    assert "merge it into the model" in listing.odd["lora/adapter_model.safetensors"]


@pytest.fixture
def remote(state: State, tmp_path: Path) -> Iterator[str]:
    """The same in an object store."""
    base = UPath("memory://bucket/sets")
    write_set(state, tmp_path / "merged")
    for path in (tmp_path / "merged").iterdir():
        (base / "merged").mkdir(parents=True, exist_ok=True)
        (base / "merged" / path.name).write_bytes(path.read_bytes())
    yield str(base)
    base.fs.store.clear()


def test_a_set_in_an_object_store_is_one_checkpoint(own: ArtifactStore, remote: str, state: State) -> None:
    (checkpoint,) = checkpoints.discover(own, "tiny", remote)
    assert keys([checkpoint]) == ["merged"]
    is_kept(own, checkpoint, remote, state)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("optimizer.bin", "trainer's own state"),
        ("random_states_0.pkl", "trainer's own state"),
        ("zero_pp_rank_0_mp_rank_00_optim_states.pt", "trainer's own state"),
        ("scheduler.pt", "trainer's own state"),
        ("rng_state_3.pth", "trainer's own state"),
        ("net.pt2", "could run code: name it as the architecture"),
        ("model.h5", "'.h5' is not read: save the state dict as .safetensors"),
    ],
)
def test_what_is_not_read_is_named_with_what_would_be(folder: Path, name: str, words: str) -> None:
    (folder / name).write_bytes(b"x")
    listing = checkpoints.scan(str(folder))
    assert listing.files == ()
    assert words in listing.odd[name]


def test_names_in_the_store_lead_to_no_file_outside_of_the_folder(
    own: ArtifactStore, folder: Path, tmp_path: Path, state: State
) -> None:
    save_file(state, folder / "e1.safetensors")
    (checkpoint,) = checkpoints.discover(own, "tiny", str(folder))
    (folder / "e1.safetensors").rename(tmp_path / "moved.safetensors")
    pointers = Path(own.root.path) / "pointers" / "sources" / "tiny"
    (record,) = pointers.iterdir()
    data = json.loads(record.read_text())
    data["files"] = {"../moved.safetensors": data["files"]["e1.safetensors"]}
    record.write_text(json.dumps(data))
    assert sha256_of(tmp_path / "moved.safetensors") == checkpoint.file.sha256
    with pytest.raises(CheckpointError, match="is not in the store"):
        checkpoints.fetch(own, checkpoint, str(folder))
