"""The artifact store: on a folder and on a real S3 API over HTTP, through one code path."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from edge_assets.core.types import Artifact, Recipe, Result
from edge_assets.errors import Refused, StoreError
from resources.blobs import blob_key
from resources.memos import memo_key
from resources.store import ArtifactStore, NotBuilt, open_store
from tests.conftest import ROOT, Project

RECIPE = Recipe("example", "1", {"source": "abc"}, {"bits": 8}, {"numpy": "2.4"})


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "folder":
        return open_store(str(tmp_path / "store"), tmp_path / "cache")
    endpoint = request.getfixturevalue("s3_endpoint")
    # a listing that was cached before another process wrote would hide its results
    return open_store(
        f"s3://models/{tmp_path.name}",
        tmp_path / "cache",
        endpoint_url=endpoint,
        key="k",
        secret="s",
        use_listings_cache=False,
    )


def two_files(folder: Path) -> Mapping[str, Any]:
    (folder / "weights").mkdir()
    (folder / "weights" / "w.bin").write_bytes(b"w" * 5000)
    (folder / "model.json").write_text("{}")
    return {"layers": 3}


def must_not_run(_folder: Path) -> Mapping[str, Any]:
    raise AssertionError("the store should have had this")


def test_the_same_recipe_is_built_once(store: ArtifactStore) -> None:
    first = store.remember(RECIPE, two_files)
    second = store.remember(RECIPE, must_not_run)
    assert (first.reused, second.reused) == (False, True)
    assert second.artifact == first.artifact
    assert second.facts == {"layers": 3}
    assert second.artifact is not None
    folder = store.checkout(second.artifact)
    assert (folder / "weights" / "w.bin").read_bytes() == b"w" * 5000


def test_two_that_want_the_same_at_once_build_it_once(store: ArtifactStore) -> None:
    waiting = threading.Barrier(2)
    built = []

    def build(folder: Path) -> Mapping[str, Any]:
        built.append(folder)
        time.sleep(0.3)
        return two_files(folder)

    def want(_number: int) -> Result:
        waiting.wait(timeout=10)
        return store.remember(RECIPE, build)

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(want, range(2))
    assert len(built) == 1
    assert first.artifact == second.artifact


def test_any_change_of_the_recipe_is_another_build(store: ArtifactStore) -> None:
    store.remember(RECIPE, two_files)
    for change in (
        {"code_version": "2"},
        {"inputs": {"source": "abd"}},
        {"parameters": {"bits": 4}},
        {"tools": {"numpy": "2.5"}},
        {"step": "other"},
    ):
        changed = replace(RECIPE, **change)
        assert store.recall(changed) is None
    assert Recipe("example", "2", {"source": "x"}, {"bits": 4}, {}).changes_from(RECIPE) == [
        "code version 1 -> 2",
        "source changed",
        "bits 8 -> 4",
        "tool numpy 2.4 -> None",
    ]


def test_a_recipe_from_the_store_differs_only_in_what_changed() -> None:
    recipe = replace(RECIPE, parameters={"inputs": [{"name": "image", "shape": ("batch", 1)}], "bits": 8})
    stored = Recipe.from_dict(json.loads(json.dumps(asdict(recipe))))
    assert stored.sha256 == recipe.sha256
    assert recipe.changes_from(stored) == []
    changed = replace(recipe, parameters={"inputs": [{"name": "image", "shape": ("batch", 3)}], "bits": 4})
    assert changed.changes_from(stored) == ["bits 8 -> 4", "inputs changed"]


def test_a_refusal_is_remembered_with_its_reason(store: ArtifactStore) -> None:
    def refuse(_folder: Path) -> Mapping[str, Any]:
        raise Refused("nothing to quantize")

    assert store.remember(RECIPE, refuse).refused == "nothing to quantize"
    again = store.remember(RECIPE, must_not_run)
    assert (again.refused, again.artifact, again.reused) == ("nothing to quantize", None, True)


def test_a_failed_build_leaves_nothing(store: ArtifactStore) -> None:
    def fail(folder: Path) -> Mapping[str, Any]:
        (folder / "half.bin").write_bytes(b"half")
        raise RuntimeError("converter died")

    with pytest.raises(RuntimeError, match="converter died"):
        store.remember(RECIPE, fail)
    assert store.recall(RECIPE) is None
    assert not (store.root / "blobs").exists()
    assert not list((store.cache / "work").iterdir())


def test_planning_raises_instead_of_building(store: ArtifactStore) -> None:
    with pytest.raises(NotBuilt) as missing:
        store.planning().remember(RECIPE, must_not_run)
    assert missing.value.recipe == RECIPE


def test_a_truncated_blob_is_dropped_and_rebuilt(store: ArtifactStore, caplog: pytest.LogCaptureFixture) -> None:
    result = store.remember(RECIPE, two_files)
    assert result.artifact is not None
    blob = store.storage.path(blob_key(result.artifact.files[0].sha256))
    blob.write_bytes(b"")
    assert not store.remember(RECIPE, two_files).reused
    assert f"corrupted blob {blob}" in caplog.text


def test_a_blob_with_a_flipped_bit_is_detected_on_read(store: ArtifactStore) -> None:
    result = store.remember(RECIPE, two_files)
    assert result.artifact is not None
    file = next(file for file in result.artifact.files if file.size == 5000)
    blob = store.storage.path(blob_key(file.sha256))
    blob.write_bytes(b"v" + b"w" * 4999)
    if store.is_local:
        assert store.recall(RECIPE) is None
    else:  # a remote store hashes what it fetches
        with pytest.raises(StoreError, match=f"corrupted blob .*{file.sha256}"):
            store.checkout(result.artifact)
        assert store.recall(RECIPE) is None
    store.remember(RECIPE, two_files)
    store.checkout(result.artifact)


def test_a_damaged_checkout_is_fetched_again(store: ArtifactStore) -> None:
    result = store.remember(RECIPE, two_files)
    assert result.artifact is not None
    local = store.checkout(result.artifact) / "model.json"
    local.write_text("tampered")
    assert (store.checkout(result.artifact) / "model.json").read_text() == "{}"


def test_an_unreadable_memo_is_taken_as_absent(store: ArtifactStore) -> None:
    store.remember(RECIPE, two_files)
    store.storage.path(memo_key(RECIPE.sha256)).write_bytes(b'{"recipe": {"st')
    assert store.recall(RECIPE) is None
    assert not store.remember(RECIPE, two_files).reused


def test_pointers(store: ArtifactStore) -> None:
    assert store.pointers.get("a/b/c") is None
    store.pointers.set("a/b/c", {"value": 1})
    store.pointers.set("a/b/d", {"value": 2})
    assert store.pointers.get("a/b/c") == {"value": 1}
    assert store.pointers.names("a/b") == ["c", "d"]
    assert sorted(store.pointers.keys("a")) == ["a/b/c", "a/b/d"]
    store.pointers.drop("a/b/c")
    assert store.pointers.get("a/b/c") is None


def test_export_replaces_the_folder(store: ArtifactStore, tmp_path: Path) -> None:
    result = store.remember(RECIPE, two_files)
    assert result.artifact is not None
    target = tmp_path / "releases" / "x"
    target.mkdir(parents=True)
    (target / "old.txt").write_text("old")
    store.export(result.artifact, target)
    assert sorted(path.name for path in target.iterdir()) == ["model.json", "weights"]


def test_of_several_that_claim_a_pointer_at_once_one_is_told_so(store: ArtifactStore) -> None:
    store.pointers.set("some/other", {})
    waiting = threading.Barrier(4)

    def claim(number: int) -> bool:
        waiting.wait()
        return store.pointers.claim("checkpoints/tiny/a-0", {"number": number})

    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(claim, range(4)))
    assert sum(won) == 1
    assert store.pointers.get("checkpoints/tiny/a-0") == {"number": won.index(True)}
    assert not store.pointers.claim("checkpoints/tiny/a-0", {"number": 9})


def inodes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_ino for path in folder.rglob("*") if path.is_file()}


def numbered(store: ArtifactStore, number: int) -> Artifact:
    """An artifact of two files that both say which it is."""

    def build(folder: Path) -> Mapping[str, Any]:
        for name in ("model.bin", "manifest.json"):
            (folder / name).write_text(f"{name} of {number}")
        return {}

    artifact = store.remember(Recipe("numbered", "1", {}, {"number": number}), build).artifact
    assert artifact is not None
    return artifact


def test_an_export_of_what_is_there_already_writes_nothing(store: ArtifactStore, tmp_path: Path) -> None:
    folder = tmp_path / "releases" / "x"
    store.export(numbered(store, 1), folder)
    before = inodes(folder)
    store.export(numbered(store, 1), folder)
    assert inodes(folder) == before
    (folder / "model.bin").write_text("changed by hand")
    store.export(numbered(store, 1), folder)
    assert (folder / "model.bin").read_text() == "model.bin of 1"
    (folder / "extra.txt").write_text("of nobody")
    store.export(numbered(store, 1), folder)
    assert set(inodes(folder)) == set(before)
    assert [path.name for path in folder.parent.iterdir()] == ["x"]


@pytest.mark.parametrize("before", ["a file", "a link", "a dangling link"])
def test_an_export_takes_the_place_of_whatever_is_there(tmp_path: Path, before: str) -> None:
    store = open_store(str(tmp_path / "store"), tmp_path / "cache")
    folder, elsewhere = tmp_path / "releases" / "x", tmp_path / "elsewhere"
    folder.parent.mkdir()
    elsewhere.mkdir()
    (elsewhere / "mine.txt").write_text("mine")
    if before == "a file":
        folder.write_text("a file")
    else:
        folder.symlink_to(elsewhere if before == "a link" else tmp_path / "nothing")
    store.export(numbered(store, 1), folder)
    assert not folder.is_symlink()
    assert (folder / "model.bin").read_text() == "model.bin of 1"
    assert (elsewhere / "mine.txt").read_text() == "mine"


def test_an_export_works_where_the_cache_is_on_another_file_system(tmp_path: Path) -> None:
    others = [place for place in ("/dev/shm", "/var/tmp") if Path(place).stat().st_dev != tmp_path.stat().st_dev]
    if not others:
        pytest.skip("/dev/shm and /var/tmp are on the file system of the temporary folder")
    with tempfile.TemporaryDirectory(dir=others[0]) as cache:
        store = open_store(str(tmp_path / "store"), Path(cache))
        for number in (1, 2):
            store.export(numbered(store, number), tmp_path / "releases" / "x")
            assert (tmp_path / "releases" / "x" / "model.bin").read_text() == f"model.bin of {number}"


EXPORTER = """
    import sys, time
    from pathlib import Path
    from edge_assets.core.types import Recipe
    from resources import folders
    from resources.store import open_store

    base, own, exchanges = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    if exchanges == "no":
        folders.exchange = lambda one, other: False
    store = open_store(str(base / "store"), base / "cache")
    artifacts = []
    for number in (1, 2):
        def build(folder):
            for name in ("model.bin", "manifest.json"):
                (folder / name).write_text(f"{name} of {own}-{number}")
            return {}
        artifacts.append(store.remember(Recipe("numbered", "1", {}, {"number": f"{own}-{number}"}), build).artifact)
    print("ready", flush=True)
    sys.stdin.readline()
    until, count = time.monotonic() + 1.5, 0
    while time.monotonic() < until:
        store.export(artifacts[count % 2], base / "releases" / "x")
        count += 1
    print(count, flush=True)
"""


@pytest.mark.parametrize("exchanges", ["yes", "no"])
def test_exporters_of_one_folder_all_succeed_and_a_reader_never_finds_it_absent(tmp_path: Path, exchanges: str) -> None:
    """Where names cannot be exchanged in one step, exporters still all succeed; the folder is absent for moments."""
    store = open_store(str(tmp_path / "store"), tmp_path / "cache")
    folder = tmp_path / "releases" / "x"
    store.export(numbered(store, 1), folder)
    command = [sys.executable, "-c", textwrap.dedent(EXPORTER), str(tmp_path)]
    processes = [
        subprocess.Popen(
            [*command, own, exchanges],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for own in "abc"
    ]
    for process in processes:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == "ready\n", process.stderr and process.stderr.read()
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    absent = looks = 0
    while any(process.poll() is None for process in processes):
        looks += 1
        absent += not folder.is_dir()
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert sum(int(output) for output, _errors in outputs) >= 10
    assert looks > 100
    assert not absent or exchanges == "no", f"absent at {absent} of {looks} looks"
    owners = {path.read_text().rpartition(" ")[2] for path in folder.iterdir()}
    assert len(owners) == 1, "the two files of one exporter"
    assert [path.name for path in folder.parent.iterdir()] == ["x"]


def test_put_marks_what_is_there_as_used(store: ArtifactStore, tmp_path: Path) -> None:
    """So that the collector leaves it for the result that will soon name it."""
    artifact = numbered(store, 1)
    name = artifact.files[0].path
    file = store.checkout(artifact) / name
    if store.is_local:
        blob = Path(store.storage.path(blob_key(artifact.files[0].sha256)).path)
        os.utime(blob, (1, 1))
        store.put(file, name)
        assert blob.stat().st_mtime > time.time() - 60
    else:
        key = f"blobs/{artifact.files[0].sha256[:2]}/{artifact.files[0].sha256}"
        before = store.storage.stat(key)
        time.sleep(1.1)  # times on S3 are in whole seconds
        assert store.storage.touch(key)
        after = store.storage.stat(key)
        assert before
        assert after
        assert after.modified > before.modified
        assert after.size == before.size


def test_work_of_other_hosts_and_of_living_processes_is_never_swept(tmp_path: Path) -> None:
    """The kernel knows who lives, whatever host or container a state folder is shared by."""
    store = open_store(str(tmp_path / "store"), tmp_path / "cache")
    work = tmp_path / "cache" / "work"
    with store.workspace() as mine:
        for name in (f"{socket.gethostname()}-1-abc-def", f"{socket.gethostname()}-x-y", "web-1-9999999-abc"):
            (work / name).mkdir()
        others = open_store(str(tmp_path / "store"), tmp_path / "cache")
        others.workspaces.sweep()
        assert mine.is_dir()
        assert len(list(work.iterdir())) == 4


def test_work_of_killed_processes_is_swept(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), tmp_path / "cache")
    code = f"""
        import os
        from pathlib import Path
        from resources.store import open_store
        with open_store({str(tmp_path / "store")!r}, Path({str(tmp_path / "cache")!r})).workspace():
            os._exit(1)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert len(list((tmp_path / "cache" / "work").iterdir())) == 1
    with store.workspace() as mine:
        store.workspaces.sweep()
        assert [mine] == list((tmp_path / "cache" / "work").iterdir())


FULL_DISK = """
    from pathlib import Path
    from edge_assets.errors import StoreError
    from edge_assets.core.types import Recipe, Result
    from resources.store import open_store

    store = open_store("{disk}/store", Path("{disk}/cache"))
    try:
        store.remember(Recipe("big", "1"), lambda folder: (folder / "a").write_bytes(b"x" * 700_000) and {{}})
    except StoreError as error:
        print(error)
    print([path.name for path in Path("{disk}/store").rglob("*") if path.is_file()])
"""


def test_a_full_disk_is_one_clear_message_and_nothing_half_written(tmp_path: Path) -> None:
    """On a real file system of one megabyte: the build fits, its copy in the store does not."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = textwrap.dedent(FULL_DISK).format(disk=disk)
    mount = f"mount -t tmpfs -o size=1m tmpfs {disk} && exec {sys.executable} -c '{script}'"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", mount], capture_output=True, text=True, env=environment
    )
    if "unshare" in result.stderr or "mount" in result.stderr:
        pytest.skip(f"this machine allows no private mount: {result.stderr.strip()}")
    assert "no space left on the disk while writing" in result.stdout, result.stderr
    assert result.stdout.strip().endswith("[]")


@pytest.mark.slow
def test_a_build_on_s3_is_found_by_another_machine(
    s3_endpoint: str, built: Project, tmp_path: Path, checkpoint_file: Path
) -> None:
    """Two state folders that share a bucket: the second downloads instead of building."""
    shared = {
        "EDGE_ASSETS_MODELS": "tests.tiny.few:FEW",
        "EDGE_ASSETS_STORE": "s3://models/shared",
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_REGION": "us-east-1",
    }
    first = Project(tmp_path / "one", built.checkpoints, shared)
    second = Project(tmp_path / "two", built.checkpoints, shared)
    result = first.build()
    assert result.returncode == 0, result.stdout + result.stderr
    assert "building onnx_model" in result.stdout
    result = second.build()
    assert result.returncode == 0, result.stdout + result.stderr
    assert "building" not in result.stdout
    rows = json.loads(second.run("scorecard", "--model", "tiny", "--json").stdout)
    assert {row["artifact"]: row["reused"] for row in rows} == {row["artifact"]: True for row in rows}
    assert not (tmp_path / "two" / "store").exists()
