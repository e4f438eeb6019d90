"""What the store's writers cannot do to its readers: reach files, pass off results, choose what a session imports."""

import hmac
import inspect
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from edge_assets.core.runtimes import RUNTIMES, build_session
from edge_assets.core.types import Artifact, Built, File, Recipe, Result
from edge_assets.errors import Malformed, StoreError
from edge_assets.families.cpu import CPU
from edge_assets.pipeline.cell import Cell
from edge_assets.targets.project import target
from resources import checkpoints, trust
from resources.blobs import blob_key
from resources.memos import memo_key
from resources.pointers import pointed_result, vouched
from resources.store import ArtifactStore, assembled, open_store
from tests.tiny.spec import TINY

RECIPE = Recipe("example", "1", {"source": "abc"})
OTHER = Recipe("example", "1", {"source": "def"})
EVIL = b"print('not what was asked for')"
HASH = "0123456789abcdef" * 4
LEAVING = {
    "upwards": "../../../outside/evil.py",
    "upwards from a folder": "weights/../../../../outside/evil.py",
    "a name of Windows": r"..\..\evil.py",
    "a drive": "C:/evil.py",
    "not normalised": "weights/./w.bin",
    "an empty name": "weights//w.bin",
    "a folder": "weights/",
    "nothing": "",
    "a null byte": "w\0.bin",
}


@pytest.fixture
def own(tmp_path: Path) -> ArtifactStore:
    return open_store(str(tmp_path / "store"), tmp_path / "home" / "cache")


def one_file(folder: Path) -> Mapping[str, Any]:
    (folder / "model.bin").write_bytes(b"good")
    return {"layers": 3}


def change_memo(store: ArtifactStore, recipe: Recipe, change: Callable[[dict[str, Any]], object]) -> None:
    """As somebody else who may write the store."""
    path = store.storage.path(memo_key(recipe.sha256))
    memo = json.loads(path.read_bytes())
    change(memo)
    path.write_text(json.dumps(memo))


def plant(store: ArtifactStore, tmp_path: Path, path: str) -> None:
    """A memo of RECIPE, honest but for the path of its one file, whose blob is in the store."""
    store.remember(RECIPE, one_file)
    (tmp_path / "evil").write_bytes(EVIL)
    entry = asdict(store.put(tmp_path / "evil", "evil"))
    change_memo(store, RECIPE, lambda memo: memo.update(artifact={"files": [entry | {"path": path}]}))


def files_outside(store: ArtifactStore, tmp_path: Path) -> list[Path]:
    inside = (store.cache, Path(store.root.path), tmp_path / "evil")
    every = [path for path in tmp_path.rglob("*") if path.is_file()]
    return [path for path in every if not any(path.is_relative_to(folder) for folder in inside)]


@pytest.mark.parametrize("path", LEAVING.values(), ids=LEAVING)
def test_a_memo_whose_file_leaves_its_artifact_is_absent_and_writes_nothing(
    own: ArtifactStore, tmp_path: Path, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    plant(own, tmp_path, path)
    result = own.recall(RECIPE)
    assert result is None
    assert "is taken as absent, and written anew" in caplog.text
    rebuilt = own.remember(RECIPE, one_file)
    assert not rebuilt.reused
    assert rebuilt.artifact
    assert own.checkout(rebuilt.artifact).read_bytes() == b"good"
    assert files_outside(own, tmp_path) == []


def test_a_memo_with_an_absolute_path_overwrites_no_file(own: ArtifactStore, tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    plant(own, tmp_path, str(precious))
    result = own.remember(RECIPE, one_file)
    assert result.artifact is not None
    own.checkout(result.artifact)
    own.export(result.artifact, tmp_path / "releases" / "x")
    assert precious.read_text() == "mine"


@pytest.mark.parametrize("path", ["../evil.py", "/tmp/evil.py"])
def test_no_artifact_of_a_pointer_or_an_outbox_entry_is_exported_outside(path: str) -> None:
    with pytest.raises(Malformed, match="stays inside of its folder"):
        Artifact.from_dict({"files": [{"path": path, "sha256": HASH, "size": 4}]})


@pytest.mark.parametrize("sha256", ["../../../etc/passwd", "abc", HASH.upper(), f"{HASH}\n", "", None, 7])
def test_a_hash_that_is_none_becomes_no_path(own: ArtifactStore, sha256: Any) -> None:
    with pytest.raises(Malformed, match="is not a sha256"):
        File("model.bin", sha256, 4)
    with pytest.raises(Malformed, match="is not a sha256"):
        own.storage.path(blob_key(sha256 or ""))


@pytest.mark.parametrize("paths", [[], ["a", "a"], ["a", "a/b"], ["a", "a/b/c"]])
def test_files_that_cannot_lie_in_one_folder_are_no_artifact(paths: list[str]) -> None:
    with pytest.raises(Malformed):
        Artifact(tuple(File(path, HASH, 4) for path in paths))


@pytest.mark.parametrize("size", [-1, 1.5, True, "4", None])
def test_a_size_that_is_none_is_refused(size: Any) -> None:
    with pytest.raises(Malformed, match="is not the size of a file"):
        File("model.bin", HASH, size)


@pytest.mark.parametrize("key", ["../../outside", "/outside", "a/../../../outside", "a//b", "", "a/b\0"])
def test_no_pointer_leaves_the_folder_of_pointers(own: ArtifactStore, tmp_path: Path, key: str) -> None:
    for use in (own.pointers.get, own.pointers.drop, own.pointers.names, lambda key: list(own.pointers.keys(key))):
        with pytest.raises(StoreError, match="is not a"):
            use(key)
    with pytest.raises(StoreError, match="is not a"):
        own.pointers.set(key, {"value": 1})
    assert not list(tmp_path.rglob("*outside*"))


def test_a_memo_under_the_name_of_another_recipe_is_not_its_result(
    own: ArtifactStore, caplog: pytest.LogCaptureFixture
) -> None:
    own.remember(RECIPE, one_file)
    foreign = own.storage.path(memo_key(OTHER.sha256))
    foreign.parent.mkdir(parents=True, exist_ok=True)
    foreign.write_bytes(own.storage.path(memo_key(RECIPE.sha256)).read_bytes())
    assert own.recall(OTHER) is None
    assert f"{foreign} is taken as absent" in caplog.text
    assert "another recipe" in caplog.text
    assert not own.remember(OTHER, one_file).reused


# --- what a session is opened with -------------------------------------------------------------------------


def planted() -> Any:
    raise AssertionError("a callable that a memo named was called")


def test_a_memo_does_not_choose_the_architecture_that_is_imported(store: ArtifactStore, checkpoint_file: Path) -> None:
    checkpoint = checkpoints.register(store, "tiny", str(checkpoint_file))
    cell = Cell(TINY, CPU, target("graviton3"), checkpoint, store, lambda _line: None)
    honest = cell.reference.build().build
    session = {"architecture": "tests.resources.test_store_trust:planted"}
    changed = replace(honest, facts={**honest.facts, "session": session})
    with pytest.raises(StoreError, match=f"memo {honest.recipe.sha256} .*sets the session option architecture"):
        cell.verification.loadable("pytorch", changed).open(1)
    cell.verification.loadable("pytorch", honest)


@pytest.mark.parametrize("name", ["checkpoint", "onnx_model"])
def test_a_memo_with_a_session_option_that_its_runtime_does_not_take_is_absent_said_once_and_built_anew(
    own: ArtifactStore, checkpoint_file: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = checkpoints.register(own, "tiny", str(checkpoint_file))

    def built() -> Built:
        cell = Cell(TINY, CPU, target("graviton3"), checkpoint, own, lambda _line: None)
        source = cell.reference.build()
        if name == "checkpoint":
            return source
        return cell.variants.build(CPU.variant(name), source)

    honest = built().build
    session = {"architecture": "tests.resources.test_store_trust:planted"}
    change_memo(own, honest.recipe, lambda memo: memo["facts"].update(session=session))
    anew = built().build
    assert not anew.reused
    assert anew.artifact == honest.artifact
    assert built().build.reused
    said = [line for line in caplog.messages if "sets the session option architecture" in line]
    assert len(said) == 1
    assert "is taken as absent, and written anew" in said[0]
    pointed = replace(built(), build=replace(honest, facts={**honest.facts, "session": session}))
    own.pointers.set("assets/tiny/cpu/x", {"type": "Built", "value": pointed.to_dict()})
    assert pointed_result(own, "assets/tiny/cpu/x") is None


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_build_sets_only_session_options_that_its_runtime_declares(name: str) -> None:
    module = import_module(f"edge_assets.toolchains.{RUNTIMES[name].module}")
    options = set(inspect.signature(module.open_session).parameters)
    declared = RUNTIMES[name].build_options
    assert set(declared) <= options - {"path", "threads", "architecture", "device"}
    said = {option: ["x"] for option in declared}
    assert build_session(name, Result(RECIPE, None, {"session": said})) == said
    for wrong in ({"architecture": "os:getcwd"}, {"device": "cuda"}, {"path": "/etc/passwd"}):
        with pytest.raises(Malformed, match=next(iter(wrong))):
            build_session(name, Result(RECIPE, None, {"session": {**said, **wrong}}))
    with pytest.raises(Malformed, match="no mapping"):
        build_session(name, Result(RECIPE, None, {"session": ["architecture"]}))


# --- trusted keys --------------------------------------------------------------------------------------------


class SharedSecret:
    """A verifier as one that comes later: takes what is signed with the secret."""

    def sign(self, content: bytes) -> str:
        return hmac.digest(b"secret", content, "sha256").hex()

    def verify(self, content: bytes, signature: Any) -> bool:
        return isinstance(signature, str) and hmac.compare_digest(signature, self.sign(content))


@pytest.fixture
def as_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process wrote counts as another's."""
    monkeypatch.setattr("resources.memos.OWN_MEMOS", set())


def test_with_trusted_keys_an_unsigned_memo_is_absent_and_rebuilt(
    own: ArtifactStore, as_others: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    own.remember(RECIPE, one_file)
    own.remember(OTHER, one_file)
    monkeypatch.setattr("resources.memos.OWN_MEMOS", set())
    assert trust.verifier() is None
    monkeypatch.setenv("EDGE_ASSETS_TRUSTED_KEYS", "keys.pem")
    strict = assembled(own.storage, own.cache, trust.verifier(), read_only=False)
    assert strict.recall(RECIPE) is None
    assert strict.recall(OTHER) is None
    said = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 1
    assert "EDGE_ASSETS_TRUSTED_KEYS is set" in said[0]
    assert not strict.remember(RECIPE, one_file).reused
    assert strict.recall(RECIPE), "what this process built itself needs no signature"


def test_a_memo_that_a_trusted_key_signed_counts_until_a_byte_of_it_changes(
    own: ArtifactStore, as_others: None
) -> None:
    own.remember(RECIPE, one_file)
    key = SharedSecret()
    strict = assembled(own.storage, own.cache, key, read_only=False)

    def sign(memo: dict[str, Any]) -> None:
        memo[trust.SIGNATURE] = key.sign(trust.signed_content(memo))

    change_memo(own, RECIPE, lambda memo: memo["facts"].update(layers=4))
    assert strict.recall(RECIPE) is None
    change_memo(own, RECIPE, sign)
    result = strict.recall(RECIPE)
    assert result
    assert result.facts == {"layers": 4}
    assert own.recall(RECIPE), "a store that trusts all its writers reads signed memos too"
    change_memo(own, RECIPE, lambda memo: memo["facts"].update(layers=5))
    assert strict.recall(RECIPE) is None
    pointed = replace(result, facts={"layers": 5})
    assert own.memos.vouched(pointed) == pointed
    assert strict.memos.vouched(pointed) is None


def test_assets_hand_on_only_results_that_are_trusted(own: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    build, evidence = own.remember(RECIPE, one_file), own.remember(OTHER, one_file)
    handed = Built("onnx_model", "onnx", "fp32", "onnx", build, evidence)
    refused = replace(handed, build=Result(RECIPE, None, {}, refused="no convolutions"), evidence=None)
    strict = assembled(own.storage, own.cache, trust.NothingVerifies(), read_only=False)
    taken = vouched(strict, handed)
    assert isinstance(taken, Built), "built by this process"
    assert taken.build.artifact == build.artifact, "built by this process"
    failed = vouched(strict, replace(evidence, facts={"failed": {"onnx_model": "hung"}, "layers": 9}))
    assert isinstance(failed, Result)
    assert failed.facts == {"layers": 3, "failed": {"onnx_model": "hung"}}
    monkeypatch.setattr("resources.memos.OWN_MEMOS", set())
    assert vouched(strict, handed) is None
    assert vouched(strict, refused) == refused, "what only takes away needs no memo"
    assert vouched(own, handed) == handed
