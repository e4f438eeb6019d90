"""The collector frees what nothing needs, beside builds and after being killed, in a folder and on S3."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edge_assets.core.types import Artifact, Built, File, Recipe, Result
from edge_assets.errors import StoreError, UnknownName
from edge_assets.hashing import sha256_of
from resources import collection, superseded
from resources.collection import Freed, Policy
from resources.store import ArtifactStore, open_store
from tests.conftest import Project
from tests.fault_proxy import fault_proxy

if TYPE_CHECKING:
    from mlflow import MlflowClient

DAY = 24 * 3600
NOW = Policy(older_than=0, grace=0)  # as if everything had waited long enough
MONTH = Policy()


@pytest.fixture
def local(tmp_path: Path) -> ArtifactStore:
    return open_store(str(tmp_path / "store"), tmp_path / "cache")


@pytest.fixture(params=["folder", "s3"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "folder":
        return request.getfixturevalue("local")
    endpoint = request.getfixturevalue("s3_endpoint")
    return open_store(f"s3://models/{tmp_path.name}", tmp_path / "cache", endpoint_url=endpoint, key="k", secret="s")


def age(*folders: Path, days: float = 40) -> None:
    """Everything below was last used so long ago."""
    then = time.time() - days * DAY
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            os.utime(path, (then, then), follow_symlinks=False)


def recipe_of(name: str, **inputs: str) -> Recipe:
    return Recipe(name, "1", inputs)


def make(store: ArtifactStore, name: str, **inputs: str) -> Result:
    """A result whose one file says its name."""

    def build(folder: Path) -> Mapping[str, Any]:
        (folder / "model.bin").write_text(f"model of {name} {sorted(inputs)}")
        return {"samples": 200} if name == "calibration_data" else {}

    return store.remember(recipe_of(name, **inputs), build)


def point_asset(store: ArtifactStore, artifact: str, checkpoint: str, result: Result) -> None:
    built = Built(artifact, "onnx", "fp32", "onnx", result, None)
    data = (
        {"type": "Result", "value": result.to_dict()}
        if artifact == "release"
        else {
            "type": "Built",
            "value": built.to_dict(),
        }
    )
    store.pointers.set(f"assets/tiny/cpu/{artifact}/{checkpoint}/graviton3", data)


def put_text(store: ArtifactStore, text: str) -> File:
    with store.workspace() as work:
        (work / "file").write_text(text)
        return store.put(work / "file", "file")


def register(store: ArtifactStore, key: str, number: int) -> File:
    file = put_text(store, f"weights of {key}")
    data = {"model": "tiny", "key": key, "file": asdict(file), "source": "x", "registered": 1.0, "number": number}
    store.pointers.set(f"checkpoints/tiny/{key}", data)
    return file


def blob_of(result: Result) -> str:
    assert result.artifact is not None
    return result.artifact.files[0].sha256


def blobs(store: ArtifactStore) -> set[str]:
    return {stat.key.rpartition("/")[2] for stat in store.storage.files("blobs")}


def memos(store: ArtifactStore) -> set[str]:
    return {stat.key.rpartition("/")[2].removesuffix(".json") for stat in store.storage.files("recipes")}


@dataclass(frozen=True)
class Filled:
    """A store with two checkpoints of a model, of which the first is superseded by the second."""

    store: ArtifactStore
    weights: tuple[File, File]
    results: dict[str, Result]
    waiting: File  # of an outbox entry
    nobodys: File

    def names(self, *results: str) -> set[str]:
        return {self.results[name].recipe.sha256 for name in results}

    def blobs(self, *results: str) -> set[str]:
        return {blob_of(self.results[name]) for name in results}


def fill(store: ArtifactStore) -> Filled:
    weights = register(store, "old", 1), register(store, "new", 2)
    data = make(store, "calibration_data")
    results = {"data": data}
    for checkpoint in ("old", "new"):
        graph = make(store, f"graph-{checkpoint}", calibration=data.sha256)
        small = make(store, f"int8-{checkpoint}", source=graph.sha256)
        release = make(store, f"release-{checkpoint}", artifact=small.sha256)
        for name, result in (("onnx_model", graph), ("onnx_int8", small), ("release", release)):
            point_asset(store, name, checkpoint, result)
            results[f"{name}-{checkpoint}"] = result
    results["check"] = store.remember(recipe_of("data_check", calibration=data.sha256), lambda _folder: {"ok": True})
    results["superseded"] = make(store, "int8 of an earlier version", source=results["onnx_model-new"].sha256)
    waiting = put_text(store, "waits to be logged")
    entry: dict[str, Any] = {"cell": "tiny/cpu/new/graviton3", "kind": "report", "run": "parent"}
    store.pointers.set(
        "outbox/tiny/cpu/new/graviton3/report-parent", entry | {"artifact": {"files": [asdict(waiting)]}}
    )
    store.pointers.set("scorecards/tiny/cpu/old/graviton3", {"rows": [{"sha256": results["onnx_int8-old"].sha256}]})
    return Filled(store, weights, results, waiting, put_text(store, "of nobody"))


def in_store(freed: Freed) -> dict[str, int]:
    """What was freed of the store itself, and not of this machine's cache."""
    return {kind: count for kind, count in freed.counts.items() if kind not in (collection.LOCKS, collection.TREES)}


def settle(store: ArtifactStore) -> None:
    if not store.is_local:
        time.sleep(1.1)  # times on S3 are in whole seconds


def test_what_nothing_needs_goes_and_what_is_current_stays(either: ArtifactStore) -> None:
    filled = fill(either)
    settle(either)
    expected = collection.collect(either, Policy(older_than=0, grace=0, dry_run=True))
    assert filled.nobodys.sha256 in blobs(either), "a dry run frees nothing"
    freed = collection.collect(either, NOW)
    assert (freed.counts, freed.sizes) == (expected.counts, expected.sizes)
    assert in_store(freed) == {"results": 1, "blobs": 2}
    superseded = filled.results["superseded"].artifact
    assert superseded is not None
    assert freed.sizes["blobs"] == filled.nobodys.size + superseded.size_bytes
    current = filled.results.keys() - {"superseded"}
    assert memos(either) == filled.names(*current)
    files = {filled.waiting, *filled.weights}
    assert blobs(either) == filled.blobs(*current - {"check"}) | {file.sha256 for file in files}
    for name in current:
        assert either.recall(filled.results[name].recipe), name


def test_older_checkpoints_keep_their_weights_and_their_release(either: ArtifactStore) -> None:
    filled = fill(either)
    settle(either)
    freed = collection.collect(either, Policy(older_than=0, grace=0, keep=1))
    assert freed.counts["pointers of older checkpoints"] == 2
    gone = {"superseded", "onnx_model-old", "onnx_int8-old"}
    stays = filled.results.keys() - gone
    assert memos(either) == filled.names(*stays)
    assert {file.sha256 for file in filled.weights} <= blobs(either)
    assert not filled.blobs(*gone) & blobs(either)
    assert either.pointers.names("assets/tiny/cpu/onnx_model") == []
    assert either.pointers.names("assets/tiny/cpu/release/old")
    release = filled.results["release-old"].artifact
    assert release is not None
    assert either.checkout(release).read_text().startswith("model of release-old")
    assert in_store(collection.collect(either, Policy(older_than=0, grace=0, keep=1))) == {}


def test_a_checkpoint_among_the_newest_keeps_everything(local: ArtifactStore) -> None:
    filled = fill(local)
    collection.collect(local, Policy(older_than=0, grace=0, keep=2))
    assert memos(local) == filled.names(*filled.results.keys() - {"superseded"})


def test_with_a_model_named_only_what_its_older_checkpoints_had_goes(local: ArtifactStore) -> None:
    filled = fill(local)
    with pytest.raises(UnknownName, match="tyni"):
        collection.collect(local, Policy(older_than=0, grace=0, keep=1, models=("tyni",)))
    collection.collect(local, Policy(older_than=0, grace=0, models=("tiny",)))
    assert memos(local) == filled.names(*filled.results)
    collection.collect(local, Policy(older_than=0, grace=0, keep=1, models=("tiny",)))
    assert memos(local) == filled.names(*filled.results.keys() - {"onnx_model-old", "onnx_int8-old"})


def test_what_was_used_of_late_stays(local: ArtifactStore) -> None:
    filled = fill(local)
    root = Path(local.root.path)
    assert collection.collect(local, MONTH).counts == {}, "all of it is new"
    age(root, days=20)
    assert collection.collect(local, MONTH).counts == {"blobs": 1}, "only a blob that nothing names is old enough"
    age(root)
    assert local.recall(filled.results["superseded"].recipe), "which marks it as used"
    file = put_text(local, "of nobody")
    assert collection.collect(local, MONTH).counts == {}
    assert local.holds(file)
    age(root)
    assert collection.collect(local, MONTH).counts == {"results": 1, "blobs": 2}


def test_a_blob_whose_memo_is_about_to_be_written_stays_whatever_is_asked_for(local: ArtifactStore) -> None:
    fill(local)
    file = put_text(local, "just put")
    collection.collect(local, Policy(older_than=0))
    assert local.holds(file)


# --- what must not be collected ------------------------------------------------------------------------------


def snapshot(store: ArtifactStore) -> dict[str, int]:
    return {str(path): path.stat().st_size for path in Path(store.root.path).rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("pointers/checkpoints/tiny/odd.json", "{"),
        ("pointers/checkpoints/tiny/odd.json", '{"later": 1}'),
        ("pointers/outbox/tiny/odd.json", "[]"),
        ("pointers/of-a-later-version/odd.json", "no json"),
        ("store.json", '{"version": 2}'),
    ],
)
def test_where_something_may_be_needed_that_cannot_be_read_nothing_is_freed(
    local: ArtifactStore, key: str, text: str
) -> None:
    fill(local)
    path = Path(local.root.path) / key
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    before = snapshot(local)
    again = open_store(str(local.root), local.cache)
    with pytest.raises(StoreError, match="odd.json|has version 2"):
        collection.collect(again, NOW)
    assert snapshot(local) == before


def test_an_asset_pointer_that_is_absent_for_everybody_needs_nothing(local: ArtifactStore) -> None:
    filled = fill(local)
    path = Path(local.root.path) / "pointers/assets/tiny/cpu/onnx_int8/old/graviton3.json"
    path.write_text("{}")
    collection.collect(local, NOW)
    assert filled.names("onnx_int8-old") <= memos(local), "the release was made from it"
    assert filled.names("superseded").isdisjoint(memos(local))


def test_a_read_only_store_and_a_second_collection_are_refused(local: ArtifactStore) -> None:
    fill(local)
    with pytest.raises(StoreError, match="read only"):
        collection.collect(local.planning(), NOW)
    going, go_on = threading.Event(), threading.Event()

    def wait(_line: str) -> None:
        going.set()
        go_on.wait(10)

    first = threading.Thread(target=collection.collect, args=(local, MONTH), kwargs={"say": wait})
    first.start()
    going.wait(10)
    with pytest.raises(StoreError, match="another collection"):
        collection.collect(open_store(str(local.root), local.cache), NOW)
    go_on.set()
    first.join()


def test_a_blob_that_only_a_pointer_of_another_kind_names_stays(local: ArtifactStore) -> None:
    file = put_text(local, "set aside for a person")
    local.pointers.set("outbox-refused/tiny/cpu/c/t/variant-x", {"deep": [{"artifact": {"files": [asdict(file)]}}]})
    collection.collect(local, NOW)
    assert local.holds(file)


# --- beside others, and killed ---------------------------------------------------------------------------------


def many(store: ArtifactStore, count: int) -> list[Recipe]:
    return [make(store, f"result {number}").recipe for number in range(count)]


def another(store: ArtifactStore, name: str) -> ArtifactStore:
    """The same store, as another machine opens it: with a cache of its own."""
    cache = store.cache.with_name(name)
    if store.is_local:
        return open_store(str(store.root), cache)
    options = store.root.storage_options
    keys = {"endpoint_url": options["endpoint_url"], "key": options["key"], "secret": options["secret"]}
    return open_store(str(store.root), cache, **keys)


def age_store(store: ArtifactStore) -> None:
    """Everything in the store was last used a while ago."""
    if store.is_local:
        age(Path(store.root.path))
        return
    from moto.s3.models import s3_backends

    bucket, _, prefix = store.root.path.partition("/")
    for backend in s3_backends["123456789012"].values():
        for key in backend.buckets[bucket].keys.values() if bucket in backend.buckets else ():
            if key.name.startswith(prefix):
                key.last_modified -= timedelta(days=40)


def made_and_read(store: ArtifactStore, recipe: Recipe) -> Result:
    """A result of a recipe whose file was read.

    On S3 it may be looked at, touched by us, and removed, in this order: the message then says to run again, once.
    """
    for attempt in range(2):
        result = make(store, recipe.step)
        assert result.artifact is not None
        try:
            assert store.checkout(result.artifact).read_text() == f"model of {recipe.step} []"
            break
        except StoreError as error:
            if store.is_local or attempt or "is missing from the store; run again to rebuild it" not in str(error):
                raise
    return result


def test_a_blob_that_goes_while_it_is_looked_at_is_absent(
    local: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = make(local, "result").artifact
    assert artifact is not None

    def removed(path: str, _size: int, _identity: tuple[int, int]) -> str:
        Path(path).unlink()
        return sha256_of(Path(path))

    monkeypatch.setattr("resources.blobs._hash_at", removed)
    assert not local.blobs.holds(artifact.files[0])


def test_a_builder_that_works_at_the_same_time_loses_nothing(either: ArtifactStore) -> None:
    """It uses results and blobs that are old enough to go, in the same moments in which they go."""
    count, wanted = (120, 80) if either.is_local else (30, 20)
    recipes = many(either, count)
    age_store(either)
    used: list[Result] = []
    errors: list[BaseException] = []

    def build() -> None:
        own = another(either, "builder")
        try:
            for recipe in random.Random(0).sample(recipes, wanted):
                result = made_and_read(own, recipe)
                used.append(result)
                file = put_text(own, f"model of {recipe.step} []")  # the same bytes as another's
                own.pointers.set(f"checkpoints/tiny/{len(used)}", {"registered": len(used), "file": asdict(file)})
        except BaseException as error:
            errors.append(error)

    builder = threading.Thread(target=build)
    builder.start()
    rounds = 0
    while builder.is_alive() or rounds == 0:
        collection.collect(either, MONTH)
        rounds += 1
    builder.join()
    assert not errors, errors
    assert len(used) == wanted
    again = another(either, "another")
    for result in used:
        if either.is_local:
            assert again.recall(result.recipe)
        made_and_read(again, result.recipe)
    assert len(blobs(either)) < count, "and what was not used went"


def killed_at(step: int, store: ArtifactStore, policy: Policy) -> None:
    """Collect until the `step`th change of the file system, and die in the middle of it."""
    changes = 0

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def do(self: Path, *arguments: Any, **options: Any) -> Any:
            nonlocal changes
            inside = str(self).startswith(str(store.root.path))
            changes += inside
            if inside and changes == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(self, *arguments, **options)

        return do

    Path.rename = counted(Path.rename)  # type: ignore[method-assign]
    Path.unlink = counted(Path.unlink)  # type: ignore[method-assign]
    collection.collect(store, policy)
    os._exit(0)


@pytest.mark.parametrize("step", [*range(1, 9), 10, 12])
def test_killed_at_any_point_everything_still_builds_and_the_next_collection_ends_it(
    local: ArtifactStore, step: int
) -> None:
    filled = fill(local)
    policy = Policy(older_than=0, grace=0, keep=1)
    process = multiprocessing.get_context("fork").Process(target=killed_at, args=(step, local, policy))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    again = open_store(str(local.root), local.cache)
    current = filled.results.keys() - {"superseded", "onnx_model-old", "onnx_int8-old"}
    for name in current:
        recalled = again.recall(filled.results[name].recipe)
        assert recalled, name
    for file in (*filled.weights, filled.waiting):
        assert again.checkout(Artifact((file,))).read_text()
    rebuilt = make(again, "int8 of an earlier version", source=filled.results["onnx_model-new"].sha256)
    assert rebuilt.artifact is not None
    assert again.checkout(rebuilt.artifact).is_file()
    collection.collect(again, policy)
    assert memos(again) == filled.names(*current)
    assert list(again.storage.files("tmp")) == []


def collect_anew(store: ArtifactStore, policy: Policy) -> None:
    collection.collect(another(store, "collector"), policy)
    os._exit(0)


@pytest.mark.slow
def test_killed_again_and_again_on_s3_nothing_that_is_needed_goes_and_the_next_collection_ends_it(
    s3_endpoint: str, tmp_path: Path
) -> None:
    """Killed as its second request to remove something arrives, which S3 follows every other time."""
    policy = Policy(older_than=0, grace=0, keep=1)
    with fault_proxy(s3_endpoint) as proxy:
        store = open_store(f"s3://models/{tmp_path.name}", tmp_path / "c", endpoint_url=proxy.url, key="k", secret="s")
        filled = fill(store)
        settle(store)
        current = filled.results.keys() - {"superseded", "onnx_model-old", "onnx_int8-old"}
        needed = filled.blobs(*current - {"check"}) | {file.sha256 for file in (*filled.weights, filled.waiting)}
        exits: list[int | None] = []
        while 0 not in exits:
            assert len(exits) < 20
            process = multiprocessing.get_context("fork").Process(target=collect_anew, args=(store, policy))
            proxy.fail("reset", applies=killed_at_its_second_removal(process, follows=len(exits) % 2 == 0))
            process.start()
            process.join(60)
            proxy.heal()
            exits.append(process.exitcode)
            assert filled.names(*current) <= memos(store)
            assert needed <= blobs(store)
        assert exits.count(-signal.SIGKILL) >= 4
        assert len(exits) == exits.count(-signal.SIGKILL) + 1
        assert memos(store) == filled.names(*current)
        assert blobs(store) == needed
        for name in current:
            assert store.recall(filled.results[name].recipe), name
        for file in (*filled.weights, filled.waiting):
            assert store.checkout(Artifact((file,))).read_text()
        rebuilt = make(store, "int8 of an earlier version", source=filled.results["onnx_model-new"].sha256)
        assert rebuilt.artifact is not None
        assert store.checkout(rebuilt.artifact).is_file()


def killed_at_its_second_removal(process: BaseProcess, follows: bool) -> Callable[[str, str], bool]:
    """What a proxy asks of each request: whether S3 does not get it. Kills the process before that one is answered."""
    removals = 0

    def applies(method: str, _path: str) -> bool:
        nonlocal removals
        removals += method == "DELETE"
        if method != "DELETE" or removals != 2 or process.pid is None:
            return False
        os.kill(process.pid, signal.SIGKILL)
        return not follows

    return applies


# --- leftovers, and what this machine keeps ------------------------------------------------------------------


def test_leftovers_of_killed_processes_and_old_work_go(local: ArtifactStore, tmp_path: Path) -> None:
    filled = fill(local)
    root, cache, releases = Path(local.root.path), local.cache, tmp_path / "releases"
    artifact = filled.results["data"].artifact
    assert artifact is not None
    local.checkout(artifact)
    kept = cache / "kept" / ("a" * 64)
    leftovers = [
        root / "tmp" / ("0123456789abcdef" * 2),
        root / "blobs" / "ab" / f".{'ab' * 32}.0123",  # as earlier versions named them
        root / "recipes" / "ab" / f".{'ab' * 32}.json.0123",
        cache / "work" / "host-1234-abc" / "model.bin",
        cache / "work" / "host-5678-abc" / "model.bin",
        cache / "failures" / "edge-assets_build.log",
        releases / "tiny" / "graviton3" / ".export-abc" / "copy" / "model.bin",
        kept / "step-100.pt",
    ]
    for path in leftovers:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 10)
    (root / "corrupt").mkdir()
    corrupt = root / "corrupt" / f"{'ab' * 32}-01234567"
    corrupt.write_bytes(b"x" * 10)
    everything = [*leftovers, corrupt, cache / "trees" / artifact.sha256]
    (cache / "locks" / ("b" * 64)).touch()
    with local.workspace() as mine, local.workspaces.alone("c" * 64):
        collection.collect(local, MONTH, (releases,))
        left = [path for path in everything if not path.exists()]
        assert left == [leftovers[6]], "that one is nobody's at once: its process would hold a lock"
        age(root, cache, releases, days=40)
        freed = collection.collect(local, MONTH, (releases,))
        assert mine.is_dir()
        assert (cache / "locks" / ("c" * 64)).exists()
    assert not [path for path in everything if path.exists()]
    assert freed.counts["leftovers of killed processes"] == 5
    assert freed.counts["checked-out files"] == freed.counts["resumable work"] == freed.counts["corrupt blobs"] == 1
    assert freed.counts["locks"] >= 1
    assert freed.counts["logs of failures"] == 1
    assert local.checkout(artifact).is_file()


def test_what_edge_assets_did_not_name_stays_in_the_store_and_behind_its_links(
    local: ArtifactStore, tmp_path: Path
) -> None:
    fill(local)
    root = Path(local.root.path)
    mine = tmp_path / "mine"
    foreign = [
        root / "tmp" / "thesis" / "final.tex",
        root / "blobs" / "photos" / "a.jpg",
        root / "blobs" / "ab" / ".gitignore",
        root / "recipes" / "soup.json",
        root / "corrupt" / "notes.txt",
        mine / "old.txt",
    ]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (root / "corrupt" / "link").symlink_to(mine)
    age(root, mine, days=400)
    collection.collect(local, MONTH)
    (root / "tmp").rename(root / "tmp-before")
    (root / "tmp").symlink_to(mine)
    collection.collect(local, MONTH)
    foreign[0] = root / "tmp-before" / "thesis" / "final.tex"
    assert [path for path in foreign if not path.exists()] == []


@pytest.mark.parametrize(
    "name", ["..~..~planted.pth", "~ABSOLUTE~planted.pth", "blobs~..~..~planted.pth", "planted.pth"]
)
def test_what_a_killed_collection_left_goes_back_into_the_store_only(
    name: str, local: ArtifactStore, tmp_path: Path
) -> None:
    fill(local)
    root = Path(local.root.path)
    (root / "tmp").mkdir(exist_ok=True)
    absolute = str(tmp_path).replace("/", "~").strip("~")
    (root / "tmp" / f"removing-{name.replace('ABSOLUTE', absolute)}~x").write_text("import evil")
    collection.collect(local, MONTH)
    assert not list(tmp_path.rglob("planted.pth"))


def test_resumable_work_that_a_build_holds_stays(local: ArtifactStore) -> None:
    recipe = recipe_of("training")
    with local.workspaces.alone(recipe.sha256), local.kept(recipe) as folder:
        (folder / "step-100.pt").write_bytes(b"x")
        age(local.cache / "kept")
        collection.collect(local, MONTH)
        assert (folder / "step-100.pt").exists()


# --- the command -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_keeps_a_build_up_to_date_and_older_checkpoints_rebuild_on_demand(copy_of_built: Project) -> None:
    home = copy_of_built.home
    release = next((home / "releases" / "tiny" / "graviton3").iterdir())
    age(home / "store", home / "cache")
    result = copy_of_built.run("gc")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "MiB) freed" in result.stdout, result.stdout + result.stderr
    result = copy_of_built.build()
    assert "up to date, nothing rebuilt, nothing measured again" in result.stdout, result.stdout + result.stderr
    pointer = next((home / "store" / "pointers" / "checkpoints" / "tiny").iterdir())
    newer = json.loads(pointer.read_text())
    newer |= {"key": "newer-00000000", "registered": newer["registered"] + 60, "number": newer.get("number", 0) + 1}
    pointer.with_name("newer-00000000.json").write_text(json.dumps(newer))
    before = sum(path.stat().st_size for path in (home / "store" / "blobs").rglob("*") if path.is_file())
    age(home / "store", home / "cache")
    result = copy_of_built.run("gc", "--keep", "1")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "pointers of older checkpoints" in result.stdout, result.stdout + result.stderr
    after = sum(path.stat().st_size for path in (home / "store" / "blobs").rglob("*") if path.is_file())
    assert after < 0.7 * before
    files = sorted(path.name for path in release.iterdir())
    shutil.rmtree(home / "cache")
    result = copy_of_built.build("--checkpoint", release.name)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "building onnx_model" in result.stdout, result.stdout + result.stderr
    assert sorted(path.name for path in release.iterdir()) == files


@pytest.mark.parametrize("value", ["30", "d", "-1d", "1.5d", "30 days", ""])
def test_a_time_that_is_none_is_named(value: str) -> None:
    from click.testing import CliRunner

    from edge_assets.cli import main

    result = CliRunner().invoke(main, ["gc", "--older-than", value])
    assert result.exit_code == 2
    assert f"'{value}' is no time" in result.output


# --- MLflow ----------------------------------------------------------------------------------------------------


@pytest.fixture
def tracking(tmp_path: Path) -> tuple[str, "MlflowClient"]:
    import mlflow

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    return uri, mlflow.MlflowClient(uri)


def test_files_of_superseded_runs_go_but_not_those_of_registered_versions(
    tracking: tuple[str, "MlflowClient"], tmp_path: Path
) -> None:
    uri, client = tracking
    experiment = client.create_experiment("tiny", artifact_location=(tmp_path / "artifacts").as_uri())
    file = tmp_path / "model.onnx"
    file.write_bytes(b"x" * 1000)
    runs = {}
    for name in ("current", "superseded", "released"):
        run = client.create_run(experiment, run_name=name)
        runs[name] = run.info.run_id
        client.log_artifact(run.info.run_id, str(file), "variant")
        client.log_metric(run.info.run_id, "accuracy", 0.9)
        model = client.create_logged_model(experiment, name="model", source_run_id=run.info.run_id)
        client.log_outputs(run.info.run_id, [_output(model.model_id)])
        client.log_model_artifact(model.model_id, str(file))
        client.set_terminated(run.info.run_id)
        if name != "current":
            client.set_tag(run.info.run_id, "superseded", "true")
    client.create_registered_model("tiny.graviton3")
    client.create_model_version("tiny.graviton3", f"runs:/{runs['released']}/variant", runs["released"])

    def files() -> int:
        return sum(path.is_file() and path.name == "model.onnx" for path in (tmp_path / "artifacts").rglob("*"))

    assert files() == 6
    for policy, counts in (
        (MONTH, {}),
        (Policy(older_than=0, grace=0, models=("other",)), {}),
        (Policy(older_than=0, grace=0, dry_run=True), {superseded.KIND: 1}),
    ):
        freed = Freed()
        superseded.collect(uri, policy, freed)
        assert freed.counts == counts
        assert files() == 6
    freed = Freed()
    superseded.collect(uri, NOW, freed)
    assert freed.counts == {superseded.KIND: 1}
    assert freed.sizes[superseded.KIND] >= 2000
    assert files() == 4
    assert client.get_run(runs["superseded"]).data.metrics == {"accuracy": 0.9}
    assert [entry.path for entry in client.list_artifacts(runs["released"])] == ["variant"]
    freed = Freed()
    superseded.collect(uri, NOW, freed)
    assert freed.counts == {}, "once"


def _output(model_id: str) -> Any:
    from mlflow.entities import LoggedModelOutput

    return LoggedModelOutput(model_id, 0)


def test_a_tracking_server_frees_its_own_and_no_database_is_made(tmp_path: Path) -> None:
    freed = Freed()
    superseded.collect("http://alice:s3cret@127.0.0.1:9", NOW, freed)
    superseded.collect(f"sqlite:///{tmp_path / 'mlflow.db'}", NOW, freed)
    assert len(freed.notes) == 1
    assert "mlflow gc" in freed.notes[0]
    assert "s3cret" not in freed.notes[0]
    assert not list(tmp_path.iterdir())
