"""The store when its bytes, its records or its server are not as they should be: one sentence, and nothing lost."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from edge_assets.core.types import Artifact, Recipe
from edge_assets.errors import StoreError
from resources.blobs import blob_key
from resources.memos import memo_key
from resources.pointers import pointed_result
from resources.storage import S3_CONFIG
from resources.store import ArtifactStore, open_store
from tests.conftest import Project
from tests.fault_proxy import FaultProxy, fault_proxy

RECIPE = Recipe("example", "1", {"source": "abc"}, {"bits": 8}, {"numpy": "2.4"})
ONCE = {"retries": {"mode": "standard", "total_max_attempts": 1}, "connect_timeout": 1, "read_timeout": 1}
PATIENT = {key: S3_CONFIG[key] for key in ("retries", "connect_timeout", "read_timeout")}
"""What is not to meet a fault waits as long as a user's store does: the machine that runs the tests may be busy."""
CONTENT = b"w" * 5000


def one_file(folder: Path) -> Mapping[str, Any]:
    (folder / "w.bin").write_bytes(CONTENT)
    return {"layers": 3}


@pytest.fixture(scope="module")
def proxy(s3_endpoint: str) -> Iterator[FaultProxy]:
    with fault_proxy(s3_endpoint) as running:
        yield running


@pytest.fixture
def remote(proxy: FaultProxy, tmp_path: Path) -> Callable[..., ArtifactStore]:
    """Opens the store of this test on S3 through the proxy; `config` is botocore's."""
    proxy.heal()

    def make(cache: str = "cache", **config: Any) -> ArtifactStore:
        return open_store(
            f"s3://models/{tmp_path.name}",
            tmp_path / cache,
            endpoint_url=proxy.url,
            key="k",
            secret="s",
            config_kwargs={**ONCE, **config},
        )

    return make


@pytest.fixture
def local(tmp_path: Path) -> ArtifactStore:
    return open_store(str(tmp_path / "store"), tmp_path / "cache")


# --- S3 ------------------------------------------------------------------------------------------------------


OPERATIONS: dict[str, Callable[[ArtifactStore, Artifact, Path], object]] = {
    "recall": lambda store, _artifact, _file: store.recall(RECIPE),
    "remember": lambda store, _artifact, _file: store.remember(Recipe("another", "1"), one_file),
    "holds": lambda store, artifact, _file: store.holds(artifact.files[0]),
    "checkout": lambda store, artifact, _file: store.checkout(artifact),
    "put": lambda store, _artifact, file: store.put(file, "new"),
    "point": lambda store, _artifact, _file: store.pointers.set("a/b", {"value": 2}),
    "pointer": lambda store, _artifact, _file: store.pointers.get("a/b"),
    "pointers": lambda store, _artifact, _file: store.pointers.names("a"),
    "all_pointers": lambda store, _artifact, _file: list(store.pointers.keys("a")),
    "drop_pointer": lambda store, _artifact, _file: store.pointers.drop("a/b"),
}


@pytest.mark.parametrize("fault", [500, 503, 429, "reset", "silent"])
def test_a_fault_of_the_server_that_lasts_is_one_sentence_at_every_operation_and_loses_nothing(
    remote: Callable[..., ArtifactStore], proxy: FaultProxy, tmp_path: Path, fault: int | str
) -> None:
    store = remote(**PATIENT)
    artifact = store.remember(RECIPE, one_file).artifact
    store.pointers.set("a/b", {"value": 1})
    assert artifact is not None
    (tmp_path / "new").write_bytes(b"new")
    proxy.fail(fault)
    for name, operation in OPERATIONS.items():
        shutil.rmtree(store.cache / "trees", ignore_errors=True)
        started = time.monotonic()
        with pytest.raises(StoreError, match="nothing was lost, run again") as error:
            operation(remote(read_timeout=0.2), artifact, tmp_path / "new")
        assert "\n" not in str(error.value), name
        assert "s3://models/" in str(error.value), name
        assert time.monotonic() - started < 5, name
    proxy.heal()
    again = remote("other-cache", **PATIENT)
    recalled = again.recall(RECIPE)
    assert recalled
    assert recalled.artifact
    assert again.pointers.get("a/b") == {"value": 1}
    assert again.checkout(recalled.artifact).read_bytes() == CONTENT


@pytest.mark.parametrize("fault", [500, "reset", "silent"])
def test_a_short_fault_is_not_noticed(
    remote: Callable[..., ArtifactStore], proxy: FaultProxy, fault: int | str
) -> None:
    store = remote(retries=S3_CONFIG["retries"], read_timeout=0.5)
    proxy.fail(fault, times=1)
    result = store.remember(RECIPE, one_file)
    assert result.artifact
    assert proxy.times == 0
    proxy.fail(fault, times=1)
    assert store.checkout(result.artifact).read_bytes() == CONTENT


def test_a_server_that_never_answers_is_given_up_after_minutes_not_after_half_an_hour() -> None:
    store = open_store("s3://models/x", Path("unused"), endpoint_url="http://127.0.0.1:9", key="k", secret="s")
    filesystem = store.root.fs
    config = filesystem.config_kwargs
    assert config == S3_CONFIG
    attempts = filesystem.retries * config["retries"]["total_max_attempts"]
    assert attempts * (config["connect_timeout"] + config["read_timeout"]) <= 125


@pytest.mark.parametrize("fault", ["cut", "corrupt"])
def test_a_download_that_is_cut_off_or_changed_on_the_way_is_asked_for_again(
    remote: Callable[..., ArtifactStore], proxy: FaultProxy, fault: str
) -> None:
    store = remote()
    artifact = store.remember(RECIPE, one_file).artifact
    assert artifact is not None
    of_blobs = lambda method, path: method == "GET" and "/blobs/" in path  # noqa: E731
    proxy.fail(fault, times=1, applies=of_blobs)
    assert store.checkout(artifact).read_bytes() == CONTENT
    assert proxy.times == 0
    shutil.rmtree(store.cache / "trees")
    proxy.fail(fault, applies=of_blobs)
    with pytest.raises(StoreError, match="cut off or changed on the way"):
        store.checkout(artifact)
    proxy.heal()
    assert store.checkout(artifact).read_bytes() == CONTENT, "the good blob was left where it is"


@pytest.mark.parametrize("fault", ["cut", "corrupt"])
def test_a_record_that_is_cut_off_or_changed_on_the_way_is_asked_for_again(
    remote: Callable[..., ArtifactStore], proxy: FaultProxy, fault: str
) -> None:
    store = remote()
    store.remember(RECIPE, one_file)
    proxy.fail(fault, times=1, applies=lambda method, path: method == "GET" and "/recipes/" in path)
    assert remote().recall(RECIPE)
    assert proxy.times == 0
    proxy.fail(fault, times=1, applies=lambda method, path: method == "GET" and "/recipes/" in path)
    keys = [stat.key for stat in store.storage.files("recipes")]
    assert [key for key, _content in store.storage.read_many(keys)] == keys
    assert proxy.times == 0


def test_denied_access_says_which_rights_are_needed(remote: Callable[..., ArtifactStore], proxy: FaultProxy) -> None:
    store = remote()
    artifact = store.remember(RECIPE, one_file).artifact
    assert artifact is not None
    rights = "access denied .*s3:GetObject.*s3:ListBucket.*s3:PutObject and s3:DeleteObject"
    proxy.fail(403, applies=lambda method, _path: method == "HEAD")  # as what is absent reads without ListBucket
    with pytest.raises(StoreError, match=f"cannot read s3://.*{rights}"):
        remote().holds(artifact.files[0])
    proxy.fail(403, applies=lambda method, _path: method == "PUT")
    with pytest.raises(StoreError, match=f"cannot write s3://.*{rights}"):
        remote().pointers.set("a/b", {"value": 1})
    result = remote().recall(RECIPE)
    assert result, "who may read only, reads"
    assert result.artifact, "who may read only, reads"
    assert remote().put(store.checkout(result.artifact), "w.bin") == result.artifact.files[0]
    remote().pointers.hint("a/b", {"value": 1})


def test_a_bucket_that_does_not_exist_is_named(proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.heal()
    store = open_store(
        "s3://no-such-bucket/x",
        tmp_path / "cache",
        endpoint_url=proxy.url,
        key="k",
        secret="s",
        config_kwargs=ONCE,
    )
    assert store.recall(RECIPE) is None
    with pytest.raises(StoreError, match=r"cannot write s3://no-such-bucket/x/.*does the bucket exist\?"):
        store.remember(RECIPE, one_file)


def test_a_command_on_a_failing_store_ends_with_one_sentence(proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.fail(403)
    environment = {
        "EDGE_ASSETS_STORE": "s3://models/shared",
        "AWS_ENDPOINT_URL": proxy.url,
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_REGION": "us-east-1",
    }
    result = Project(tmp_path / "home", tmp_path, environment).run("scorecard", "--model", "tiny")
    proxy.heal()
    assert result.returncode == 1
    assert "error: cannot" in result.stderr, result.stderr
    assert "access denied" in result.stderr, result.stderr
    assert "Traceback" not in result.stdout + result.stderr


# --- a blob that is wrong in the store itself -----------------------------------------------------------------


@pytest.fixture(params=["folder", "s3"])
def either(request: pytest.FixtureRequest) -> ArtifactStore:
    return request.getfixturevalue("local") if request.param == "folder" else request.getfixturevalue("remote")()


def damage(store: ArtifactStore) -> tuple[Artifact, bytes]:
    artifact = store.remember(RECIPE, one_file).artifact
    assert artifact is not None
    wrong = b"v" + CONTENT[1:]
    store.storage.path(blob_key(artifact.sha256)).write_bytes(wrong)
    return artifact, wrong


def corrupt_files(store: ArtifactStore) -> list[bytes]:
    return [content for _key, content in store.storage.read_many([stat.key for stat in store.storage.files("corrupt")])]


def test_a_wrong_blob_is_set_aside_and_not_destroyed(either: ArtifactStore) -> None:
    artifact, wrong = damage(either)
    with pytest.raises(StoreError, match="corrupted blob .* moved to corrupt/; run again to rebuild it"):
        either.checkout(artifact)
    assert corrupt_files(either) == [wrong]
    assert not either.holds(artifact.files[0])
    either.remember(RECIPE, one_file)
    assert either.checkout(artifact).read_bytes() == CONTENT
    assert corrupt_files(either) == [wrong]


def test_planning_moves_no_blob(either: ArtifactStore) -> None:
    artifact, wrong = damage(either)
    with pytest.raises(StoreError, match="corrupted blob .* Left where it is"):
        either.planning().checkout(artifact)
    either.planning().recall(RECIPE)
    assert either.storage.path(blob_key(artifact.sha256)).read_bytes() == wrong
    assert corrupt_files(either) == []


def test_a_reader_that_reads_wrong_bytes_once_destroys_nothing(
    local: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a bad disk or memory: what arrives is wrong, and the second time right."""
    artifact = local.remember(RECIPE, one_file).artifact
    assert artifact is not None
    copy, copies = shutil.copyfile, []

    def once_wrong(source: Path, destination: Path) -> None:
        copy(source, destination)
        copies.append(destination)
        if len(copies) == 1:
            Path(destination).write_bytes(b"wrong")

    monkeypatch.setattr("shutil.copyfile", once_wrong)
    assert local.checkout(artifact).read_bytes() == CONTENT
    assert len(copies) == 2
    assert corrupt_files(local) == []


# --- records of another shape ------------------------------------------------------------------------------


def deep(levels: int) -> str:
    return '{"recipe":' * levels + "{}" + "}" * levels


SHAPES = {
    "an empty object": "{}",
    "a list": "[]",
    "a number": "12",
    "null": "null",
    "a text": '"recipe"',
    "nested 200,000 deep": deep(200_000),
    "nested 900 deep": deep(900),
    "a number of 5,000 digits": "1" * 5000,
    "no JSON": '{"recipe": {"st',
    "not UTF-8": "\udcff",
}


def change_memo(store: ArtifactStore, change: Callable[[dict[str, Any]], object]) -> None:
    path = store.storage.path(memo_key(RECIPE.sha256))
    memo = json.loads(path.read_bytes())
    change(memo)
    path.write_text(json.dumps(memo))


@pytest.mark.parametrize("text", SHAPES.values(), ids=SHAPES)
def test_a_memo_of_another_shape_is_absent_and_written_anew(
    local: ArtifactStore, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    local.remember(RECIPE, one_file)
    path = local.storage.path(memo_key(RECIPE.sha256))
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert local.recall(RECIPE) is None
    assert f"{path} is taken as absent, and written anew" in caplog.text
    assert not local.remember(RECIPE, one_file).reused
    assert local.recall(RECIPE)


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "artifact a list": lambda memo: memo.update(artifact=[1]),
    "files a number": lambda memo: memo.update(artifact={"files": 3}),
    "no files": lambda memo: memo.update(artifact={"files": []}),
    "a file without hash": lambda memo: memo["artifact"]["files"][0].pop("sha256"),
    "facts a list": lambda memo: memo.update(facts=[]),
    "a parameter that is no number": lambda memo: memo["recipe"].update(parameters={"a": float("nan")}),
    "an infinite fact": lambda memo: memo.update(facts={"a": float("inf")}),
    "facts missing": lambda memo: memo.pop("facts"),
    "facts nested deep": lambda memo: memo.update(facts={"a": json.loads(deep(200))}),
    "seconds a text": lambda memo: memo.update(seconds="soon"),
    "refused a number": lambda memo: memo.update(refused=1),
    "recipe a text": lambda memo: memo.update(recipe="example"),
    "recipe without step": lambda memo: memo["recipe"].pop("step"),
    "inputs a list": lambda memo: memo["recipe"].update(inputs=["abc"]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_memo_with_a_field_of_another_shape_is_absent(
    local: ArtifactStore, change: Callable[[dict[str, Any]], object]
) -> None:
    local.remember(RECIPE, one_file)
    change_memo(local, change)
    assert local.recall(RECIPE) is None
    assert not local.remember(RECIPE, one_file).reused


def test_fields_that_a_later_version_added_are_ignored(local: ArtifactStore) -> None:
    first = local.remember(RECIPE, one_file)

    def later(memo: dict[str, Any]) -> None:
        memo["signature"] = memo["recipe"]["added"] = memo["artifact"]["added"] = "later"
        memo["artifact"]["files"][0]["mode"] = 0o644

    change_memo(local, later)
    result = local.recall(RECIPE)
    assert result
    assert result.artifact == first.artifact
    assert result.facts == first.facts


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"type": "Built"},
        {"type": "Later", "value": {}},
        {"type": ["Built"], "value": {}},
        {"type": "Built", "value": {"variant": "onnx_model", "build": 3}},
        {"type": "Result", "value": []},
    ],
)
def test_an_asset_pointer_of_another_shape_is_absent(
    local: ArtifactStore, data: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    local.pointers.set("assets/tiny/cpu/onnx_model/c/t", data)
    assert pointed_result(local, "assets/tiny/cpu/onnx_model/c/t") is None
    assert "assets/tiny/cpu/onnx_model/c/t is taken as absent" in caplog.text


def test_a_cell_whose_pointers_and_scorecard_have_another_shape_is_planned_anew_and_built(
    copy_of_built: Project,
) -> None:
    pointers = copy_of_built.home / "store" / "pointers"
    for path in [*(pointers / "assets").rglob("*.json"), *(pointers / "scorecards").rglob("*.json")]:
        path.write_text('{"type": "Built", "value": {"later": 1}, "rows": [1]}')
    result = copy_of_built.build()
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 built" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr


# --- the store's version ------------------------------------------------------------------------------------


def test_a_store_says_its_version_from_its_first_record_on(either: ArtifactStore) -> None:
    assert either.records.version is None
    assert either.recall(RECIPE) is None
    assert either.storage.read("store.json") is None, "who reads writes nothing"
    either.remember(RECIPE, one_file)
    assert json.loads(either.storage.read("store.json") or b"") == {"version": 1}


def test_a_store_from_before_there_were_versions_is_the_first(local: ArtifactStore) -> None:
    local.remember(RECIPE, one_file)
    file = Path(local.root.path) / "store.json"
    file.unlink()
    old = open_store(str(local.root), local.cache)
    assert old.recall(RECIPE)
    old.pointers.set("a/b", {"value": 1})
    assert json.loads(file.read_text()) == {"version": 1}


@pytest.mark.parametrize("text", ['{"version": 2}', '{"version": "next"}', "{}", "[]", "", deep(200_000)])
def test_a_store_of_a_version_that_is_not_known_is_refused_by_name(local: ArtifactStore, text: str) -> None:
    artifact = local.remember(RECIPE, one_file).artifact
    assert artifact is not None
    shutil.rmtree(local.cache)
    (Path(local.root.path) / "store.json").write_text(text)
    before = sorted(Path(local.root.path).rglob("*"))
    for operation in (lambda store: store.recall(RECIPE), *(_on_store(artifact, name) for name in OPERATIONS)):
        with pytest.raises(StoreError, match=r"version"):
            operation(open_store(str(local.root), local.cache))
    assert sorted(Path(local.root.path).rglob("*")) == before


def _on_store(artifact: Artifact, name: str) -> Callable[[ArtifactStore], object]:
    return lambda store: OPERATIONS[name](store, artifact, Path(__file__))


# --- a store that cannot be written --------------------------------------------------------------------------


def test_a_read_only_store_is_read_and_its_hints_are_left_out(
    local: ArtifactStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    result = local.remember(RECIPE, one_file)
    assert result.artifact is not None
    long_ago = time.time() - 10**7
    for stat in list(local.storage.files("recipes")) + list(local.storage.files("blobs")):
        os.utime(Path(local.root.path) / stat.key, (long_ago, long_ago))

    def denied(*_arguments: Any, **_options: Any) -> None:
        raise OSError(30, "Read-only file system")

    file = local.checkout(result.artifact)
    monkeypatch.setattr("os.utime", denied)
    monkeypatch.setattr("os.replace", denied)
    recalled = local.recall(RECIPE)
    assert recalled
    assert recalled.reused
    assert local.put(file, "w.bin") == result.artifact.files[0]
    local.pointers.hint("sources/tiny", {"a": 1})
    assert "cannot write" in caplog.text
    assert "going on without" in caplog.text
    with pytest.raises(StoreError, match="Read-only file system"):
        local.pointers.set("sources/tiny", {"a": 1})


def test_a_name_that_is_too_long_for_the_disk_is_one_sentence(local: ArtifactStore) -> None:
    local.pointers.set("a/" + "k" * 250, {"value": 1})  # the longest that a file system takes
    with pytest.raises(StoreError, match="cannot write .*File name too long"):
        local.pointers.set("a/" + "k" * 251, {"value": 1})
    assert [stat.key for stat in local.storage.files("tmp")] == []


def test_credentials_of_the_stores_address_are_in_no_message(tmp_path: Path) -> None:
    nowhere = open_store("http://alice:s3cret@127.0.0.1:1/store", tmp_path / "cache")
    with pytest.raises(StoreError) as error:
        nowhere.pointers.get("assets/tiny")
    assert "http://127.0.0.1:1/store/" in str(error.value)
    assert "s3cret" not in str(error.value)
