"""Files that are no good checkpoints, each refused in one short message; and what registering a good one promises."""

import errno
import io
import json
import os
import pickle
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save, save_file
from upath import UPath

from edge_assets.core.checkpoint import check_complete, load_model
from edge_assets.defs.sensors import checkpoint_sensor
from edge_assets.errors import CheckpointError, EdgeAssetsError, StoreError, UnknownName
from edge_assets.hashing import sha256_of
from resources import checkpoints
from resources.blobs import Blobs
from resources.inspection import Content, inspect_in_background
from resources.records import Pointers, Records
from resources.store import ArtifactStore, open_store
from tests.serving import wait_for
from tests.tiny.spec import TINY

ARCHITECTURE = "tests.tiny.network:TinyNet"
LONGEST_MESSAGE = 700
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state(checkpoint_file: Path) -> State:
    return load_file(checkpoint_file)


@pytest.fixture
def own_store(tmp_path: Path) -> ArtifactStore:
    return open_store(str(tmp_path / "store"), tmp_path / "cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def load(path: Path) -> torch.nn.Module:
    return load_model(ARCHITECTURE, path)


def refusal(path: Path, call: Callable[[Path], object] = load) -> str:
    """The message of the CheckpointError that reading a file raises: one line of printable text, and not long."""
    with pytest.raises(CheckpointError) as error:
        call(path)
    message = str(error.value)
    assert message.isprintable(), message[:2000]
    assert len(message) <= LONGEST_MESSAGE, message[:2000]
    return message


# --- torch zip files that are none -----------------------------------------------------------------------


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, state: State) -> None:
    path, bomb = tmp_path / "plain.pt", tmp_path / "bomb.pt"
    torch.save({**state, "zeros": torch.zeros(2**24)}, path)
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert bomb.stat().st_size < path.stat().st_size / 100
    assert "is compressed, which torch.save never does" in refusal(bomb, check_complete)


def test_records_that_claim_more_than_the_file_has_are_refused(tmp_path: Path, state: State) -> None:
    """One record that many entries point at."""
    path = tmp_path / "overlapping.pt"
    torch.save(state, path)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
        central = archive.start_dir
    entries = io.BytesIO()
    archive = zipfile.ZipFile(entries, "w")
    archive.filelist = [*zipfile.ZipFile(path).infolist(), *([largest] * 20)]
    archive.start_dir, archive._didModify = 0, True  # type: ignore[attr-defined]  # writes the directory alone
    archive.close()
    directory = bytearray(entries.getvalue())
    end = directory.rindex(b"PK\x05\x06")
    directory[end + 16 : end + 20] = central.to_bytes(4, "little")
    path.write_bytes(content[:central] + bytes(directory))
    assert "its records claim" in refusal(path, check_complete)


@pytest.mark.parametrize("missing", ["data.pkl", "version"])
def test_any_other_zip_file_is_no_checkpoint(tmp_path: Path, state: State, missing: str) -> None:
    path, renamed = tmp_path / "plain.pt", tmp_path / "renamed.pt"
    torch.save(state, path)
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(renamed, "w") as other:
        for name in plain.namelist():
            if not name.endswith(missing):
                other.writestr(name, plain.read(name))
    assert f"a zip file, not one of torch: it has no '*/{missing}'" in refusal(renamed, check_complete)


def test_a_flipped_bit_in_a_tensor_is_found(tmp_path: Path, state: State) -> None:
    path = tmp_path / "flipped.pt"
    torch.save(state, path)
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    content = bytearray(path.read_bytes())
    content[largest.header_offset + 1024] ^= 1
    path.write_bytes(content)
    assert "the checksum of flipped/data/" in refusal(path, check_complete)


# --- what is in a file -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.int64, torch.int8, torch.bool, torch.uint64, torch.complex64])
def test_weights_of_another_kind_are_refused_and_not_cast(tmp_path: Path, state: State, kind: torch.dtype) -> None:
    path = tmp_path / "kind.pt"
    torch.save({**state, "classifier.weight": state["classifier.weight"].to(kind)}, path)
    name = str(kind).removeprefix("torch.")
    assert f"types: classifier.weight is {name}, expected float32" in refusal(path)


def test_scales_are_no_weights(tmp_path: Path, state: State) -> None:
    path = tmp_path / "scales.safetensors"
    save_file({**state, "classifier.weight": torch.ones(10, 128).to(torch.float8_e8m0fnu)}, path)
    assert "classifier.weight is float8_e8m0fnu, expected float32" in refusal(path)


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_weights_of_another_precision_are_cast(tmp_path: Path, state: State, kind: torch.dtype) -> None:
    path = tmp_path / "precision.pt"
    torch.save({**state, "classifier.weight": state["classifier.weight"].to(kind)}, path)
    loaded = load_model(ARCHITECTURE, path).state_dict()["classifier.weight"]
    assert torch.equal(loaded, state["classifier.weight"].to(kind).float())


def test_what_is_finite_in_the_file_and_infinite_in_the_model_is_refused(tmp_path: Path, state: State) -> None:
    path = tmp_path / "huge.safetensors"
    save_file({**state, "classifier.bias": torch.full((10,), 1e300, dtype=torch.float64)}, path)
    assert "has NaN or infinite weights in classifier.bias" in refusal(path)


def odd_states(state: State) -> Iterator[tuple[str, object, str]]:
    weight = state["classifier.weight"]
    numbered: dict[object, torch.Tensor] = {5: weight}
    numbered.update(state)
    yield "keys", numbered, "keys that are no text: 5"
    yield "sparse", {**state, "classifier.weight": weight.to_sparse()}, "sparse, quantized or empty"
    yield "csr", {**state, "classifier.weight": weight.to_sparse_csr()}, "sparse, quantized or empty"
    yield "meta", {**state, "classifier.weight": weight.to("meta")}, "sparse, quantized or empty"
    quantized = torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)
    yield "quantized", {**state, "classifier.weight": quantized}, "sparse, quantized or empty"
    yield "list", list(state.values()), "it is a list"
    yield "empty", {}, "it is empty"
    yield "optimizer", {"state": {0: {"exp_avg": weight}}, "param_groups": []}, "a trainer's or an optimizer's state"
    yield "moments", {"0.exp_avg": weight, "0.exp_avg_sq": weight}, "holds no tensor of the architecture"
    yield "long", {**state, "x" * 5_000_000: weight}, "unexpected keys: xxxx"
    yield "control", {**state, "\x1b[31mred\nerror: nothing is wrong": weight}, r"\x1b[31mred\nerror"
    yield "many", {**state, **{f"key{'y' * 100}{i}": weight[:1] for i in range(5000)}}, "more"


@pytest.mark.parametrize("number", range(12))
def test_odd_contents_give_one_short_message(tmp_path: Path, state: State, number: int) -> None:
    name, content, message = list(odd_states(state))[number]
    path = tmp_path / f"{name}.pt"
    torch.save(content, path)
    assert message in refusal(path)


@pytest.mark.parametrize(
    "stream", [b"\x80\x02}q\x00X\xff", b"\x80\x020.", b"\x80\x02h\x05.", b"\x80\x02X\x01\x00\x00\x00\xff."]
)
def test_a_broken_pickle_gives_one_short_message(tmp_path: Path, state: State, stream: bytes) -> None:
    path, broken = tmp_path / "plain.pt", tmp_path / "broken.pt"
    torch.save(state, path)
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(broken, "w") as other:
        for name in plain.namelist():
            other.writestr(name, stream if name.endswith("data.pkl") else plain.read(name))
    refusal(broken)


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        ("F6_E2M3", "is truncated or corrupt"),
        ("F6_E3M2", "is truncated or corrupt"),
        ("F99", "is truncated or corrupt"),
    ],
)
def test_numbers_of_a_kind_that_is_not_known_give_one_short_message(tmp_path: Path, dtype: str, words: str) -> None:
    """Four numbers of six bits, as safetensors' format has them and PyTorch has not."""
    header = json.dumps({"weight": {"dtype": dtype, "shape": [4], "data_offsets": [0, 3]}}).encode()
    path = tmp_path / "six.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"abc")
    assert words in refusal(path)


@pytest.mark.parametrize("name", ["e1.safetensors", "e1.pt"])
def test_a_file_that_may_not_be_read_gives_one_short_message(
    tmp_path: Path, state: State, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    save_file(state, path)

    def denied(*_arguments: object, **_named: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", denied)  # root may read everything
    assert refusal(path, check_complete).endswith("cannot be read: Permission denied")


def test_odd_paths_give_one_short_message(tmp_path: Path) -> None:
    loop = tmp_path / "loop.pt"
    loop.symlink_to(loop)
    refusal(loop)
    refusal(tmp_path / f"{'n' * 400}.safetensors")
    refusal(tmp_path / "line\nbreak.safetensors")
    (tmp_path / "a.weird\x1bsuffix").write_bytes(b"x")
    assert "is not one of .safetensors, .pt, .pth" in refusal(tmp_path / "a.weird\x1bsuffix")


def test_upper_case_suffixes_are_read(tmp_path: Path, state: State) -> None:
    save_file(state, tmp_path / "model.SAFETENSORS")
    torch.save(state, tmp_path / "model.PT")
    for name in ("model.SAFETENSORS", "model.PT"):
        load_model(ARCHITECTURE, tmp_path / name)
    old = tmp_path / "old.PTH"
    old.write_bytes(pickle.dumps({}))
    assert "old-style pickle" in refusal(old)


# --- where bytes come from -------------------------------------------------------------------------------


def test_a_source_outside_of_the_checkpoint_folder_is_never_read_again(
    own_store: ArtifactStore, folder: Path, tmp_path: Path, state: State
) -> None:
    """A record of somebody else's in a shared store names a private file of this machine."""
    save_file(state, folder / "e1.safetensors")
    (known,) = checkpoints.discover(own_store, "tiny", str(folder))
    secret = tmp_path / "private-key"
    secret.write_text("a secret")
    forged = {"path": "private-key", "sha256": sha256_of(secret), "size": secret.stat().st_size}
    for source in (str(secret), f"{folder}/../private-key", f"file://{secret}"):
        own_store.pointers.set(f"checkpoints/tiny/{known.key}", {**vars(known), "file": forged, "source": source})
        checkpoint = checkpoints.lookup(own_store, "tiny", known.key)
        with pytest.raises(CheckpointError, match="is not in the store"):
            checkpoints.fetch(own_store, checkpoint, str(folder))
        assert not own_store.holds(checkpoint.file)


def test_a_file_with_another_content_is_not_put_into_the_store(
    own_store: ArtifactStore, folder: Path, state: State
) -> None:
    save_file(state, folder / "e1.safetensors")
    (checkpoint,) = checkpoints.discover(own_store, "tiny", str(folder))
    save_file({**state, "classifier.bias": torch.zeros(10)}, folder / "e1.safetensors")
    with pytest.raises(CheckpointError, match=r"e1.safetensors has changed since"):
        checkpoints.fetch(own_store, checkpoint, str(folder))
    assert not (Path(own_store.root.path) / "blobs").exists()
    (folder / "e1.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no file of .* has it since"):
        checkpoints.fetch(own_store, checkpoint, str(folder))


def test_a_file_that_a_person_names_is_copied_at_once(own_store: ArtifactStore, folder: Path, state: State) -> None:
    elsewhere = folder.parent / "elsewhere.safetensors"
    save_file(state, elsewhere)
    checkpoint = checkpoints.register(own_store, "tiny", str(elsewhere))
    elsewhere.unlink()
    assert sha256_of(checkpoints.fetch(own_store, checkpoint, str(folder))) == checkpoint.file.sha256


def test_the_same_checkpoint_in_the_folder_of_another_machine_is_found(
    own_store: ArtifactStore, folder: Path, state: State, tmp_path: Path
) -> None:
    save_file(state, folder / "e1.safetensors")
    (checkpoint,) = checkpoints.discover(own_store, "tiny", str(folder))
    folder.rename(tmp_path / "mounted-elsewhere")
    fetched = checkpoints.fetch(own_store, checkpoint, str(tmp_path / "mounted-elsewhere"))
    assert sha256_of(fetched) == checkpoint.file.sha256


# --- what is kept and said of places ----------------------------------------------------------------------


@pytest.fixture
def remote(state: State) -> Iterator[str]:
    """A folder in an object store, by an address that holds a password."""
    folder = UPath("memory://alice:s3cret@bucket/checkpoints")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "e1.safetensors").write_bytes(save(state))
    yield str(folder)
    folder.fs.store.clear()


def test_credentials_of_the_checkpoint_folder_reach_no_record_and_it_is_read_again_all_the_same(
    own_store: ArtifactStore, remote: str
) -> None:
    (checkpoint,) = checkpoints.discover(own_store, "tiny", remote)
    assert checkpoint.source == "memory://bucket/checkpoints/e1.safetensors"
    assert checkpoints.discover(own_store, "tiny", remote) == []
    records = [path.read_text() for path in Path(own_store.root.path).rglob("*.json")]
    assert any("memory://bucket/checkpoints" in record for record in records)
    assert not any("s3cret" in record for record in records)
    assert sha256_of(checkpoints.fetch(own_store, checkpoint, remote)) == checkpoint.file.sha256


def test_credentials_of_the_checkpoint_folder_are_in_no_message(own_store: ArtifactStore, remote: str) -> None:
    (checkpoint,) = checkpoints.discover(own_store, "tiny", remote)
    UPath(remote).joinpath("e1.safetensors").unlink()
    nowhere = "http://alice:s3cret@127.0.0.1:1/checkpoints?token=s3cret"
    messages = []
    for call in (
        lambda: checkpoints.fetch(own_store, checkpoint, remote),
        lambda: checkpoints.register(own_store, "tiny", f"{remote}/e2.safetensors"),
        lambda: checkpoints.register(own_store, "tiny", f"{nowhere}/e2.safetensors"),
        lambda: checkpoints.scan(nowhere),
    ):
        with pytest.raises(CheckpointError) as error:
            call()
        messages.append(str(error.value))
    sensor = checkpoint_sensor(replace(TINY, checkpoints=remote), [])
    messages.append(sensor.description or "")
    assert all("://" in message for message in messages), messages
    assert not any("s3cret" in message for message in messages), messages


def test_the_process_that_hashes_a_large_file_shows_no_address_in_its_arguments(
    tmp_path: Path, remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    start = subprocess.Popen

    def noted(command: list[str], **options: Any) -> "subprocess.Popen[bytes]":
        commands.append(command)
        return start(command, **options)

    monkeypatch.setattr("resources.inspection.subprocess.Popen", noted)
    with pytest.raises(CheckpointError, match=r"memory://bucket/checkpoints/e9.pt does not exist"):
        wait_for(lambda: inspect_in_background(f"{remote}/e9.pt", "stamp", tmp_path), 60, "the process answers")
    assert commands
    assert not any("memory:" in part for command in commands for part in command)


def test_a_file_of_this_machine_is_recorded_without_its_folder(
    own_store: ArtifactStore, folder: Path, state: State
) -> None:
    save_file(state, folder / "e1.safetensors")
    (checkpoint,) = checkpoints.discover(own_store, "tiny", str(folder))
    assert checkpoint.source == "e1.safetensors"
    checkpoints.fetch(own_store, checkpoint, str(folder))
    records = [path.read_text() for path in Path(own_store.root.path).rglob("*.json")]
    assert not any(str(folder) in record for record in records)


# --- keys and order --------------------------------------------------------------------------------------


def test_two_contents_whose_hashes_begin_alike_are_two_checkpoints(own_store: ArtifactStore) -> None:
    ledger = checkpoints.Ledger.open(own_store, "tiny")
    first = ledger.enter("/c/model.pt", Content("ab" * 32, 1), number=1)
    second = ledger.enter("/c/model.pt", Content("ab" * 8 + "cd" * 24, 1), number=2)
    third = ledger.enter("/c/model.pt", Content("ab" * 4 + "cd" * 28, 1), number=3)
    assert len({first.key, second.key, third.key}) == 3
    for checkpoint in (first, second, third):
        assert checkpoints.lookup(own_store, "tiny", checkpoint.key) == checkpoint, "nothing was overwritten"
        assert checkpoints.Ledger.open(own_store, "tiny").find(checkpoint.file.sha256) == checkpoint


def test_which_is_newer_does_not_depend_on_clocks(
    own_store: ArtifactStore, folder: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, now in (("first", 2e9), ("second", 1e9), ("third", 1.5e9)):
        monkeypatch.setattr("resources.checkpoints.time.time", lambda now=now: now)
        save_file({**state, "classifier.bias": torch.full((10,), now)}, folder / f"{name}.safetensors")
        checkpoints.register(own_store, "tiny", str(folder / f"{name}.safetensors"))
    assert [c.key.rpartition("-")[0] for c in checkpoints.registered(own_store, "tiny")] == ["first", "second", "third"]


def test_checkpoints_without_a_number_are_read_and_are_the_oldest(
    own_store: ArtifactStore, folder: Path, state: State
) -> None:
    save_file(state, folder / "e1.safetensors")
    new = checkpoints.register(own_store, "tiny", str(folder / "e1.safetensors"))
    for key, clock in (("b-00000000", 5e9), ("a-00000000", 4e9)):
        old = {"model": "tiny", "key": key, "file": vars(new.file), "source": "/gone", "registered": clock}
        own_store.pointers.set(f"checkpoints/tiny/{key}", old)
    assert [c.key for c in checkpoints.registered(own_store, "tiny")] == ["a-00000000", "b-00000000", new.key]


def test_a_record_of_another_form_is_left_out(own_store: ArtifactStore, folder: Path, state: State) -> None:
    save_file(state, folder / "e1.safetensors")
    known = checkpoints.register(own_store, "tiny", str(folder / "e1.safetensors"))
    own_store.pointers.set("checkpoints/tiny/zz-00000000", {"file": 5})
    own_store.pointers.set(
        "checkpoints/tiny/later-00000000", {**vars(known), "file": vars(known.file), "added": "later"}
    )
    assert checkpoints.registered(own_store, "tiny") == [known]


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", "{", '{"model": "tiny", "key": "zz-0", "file": 3, "source": "", "registered": 0}', None],
)
def test_a_record_that_cannot_be_read_is_named_when_it_is_asked_for(
    own_store: ArtifactStore, folder: Path, state: State, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    save_file(state, folder / "e1.safetensors")
    known = checkpoints.register(own_store, "tiny", str(folder / "e1.safetensors"))
    own_store.pointers.set("checkpoints/tiny/zz-0", {**vars(known), "file": vars(known.file)})  # of another checkpoint
    path = Path(own_store.root.path) / "pointers" / "checkpoints" / "tiny" / "zz-0.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(StoreError, match=f"{path} is not as this version writes it .*: correct or remove it") as error:
        checkpoints.lookup(own_store, "tiny", "zz-0")
    assert "Did you mean" not in str(error.value)
    for _ in range(2):
        assert checkpoints.registered(own_store, "tiny") == [known]
    assert caplog.text.count(str(path)) == 1, "said once"
    assert "written anew" not in caplog.text, "nothing writes it anew"


def test_numbers_are_given_once_whoever_asks(own_store: ArtifactStore, tmp_path: Path) -> None:
    other = open_store(str(tmp_path / "store"), tmp_path / "other-cache")
    taken: list[int] = []
    for store, count in ((own_store, 3), (other, 1), (own_store, 2), (other, 100), (own_store, 1)):
        first = checkpoints.reserve(store, "tiny", count)
        taken += range(first, first + count)
    assert taken == list(range(1, 108))


def test_the_alias_follows_numbers_and_not_clocks(tmp_path: Path) -> None:
    """A version of before there were numbers, then two whose machines' clocks disagree, then the older one again."""
    from mlflow import MlflowClient

    from resources.outbox import Entry
    from resources.tracking import _register

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    run = client.create_run(client.create_experiment("tiny", artifact_location=tmp_path.as_uri())).info.run_id
    versions = [
        {"release_sha256": "a", "registered": 5e9},
        {"release_sha256": "b", "registered": 9e9, "number": 1},
        {"release_sha256": "c", "registered": 1e9, "number": 2},
        {"release_sha256": "d", "registered": 9e9, "number": 1},
    ]
    released = []
    for version in versions:
        entry = Entry("tiny/cpu/key/graviton3", "onnx_fp16", "release", version=version)
        _register(client, f"runs:/{run}/release", run, entry, print)
        released.append(client.get_model_version_by_alias("tiny.graviton3", "released").tags["release_sha256"])
    assert released == ["a", "b", "c", "c"]


# --- on S3 -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An S3 API at an address of its own, with a bucket `models`."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    access = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=endpoint, **access).create_bucket(Bucket="models")
    yield endpoint
    server.stop()


@pytest.fixture
def on_s3(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    variables = {"AWS_ENDPOINT_URL": bucket, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    for name, value in {**variables, "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://models/{tmp_path.name}", tmp_path / "cache", use_listings_cache=False)


def test_a_name_is_claimed_once_on_s3(on_s3: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_s3.pointers.claim("sequence/tiny/000000000001", {"count": 1})
    with monkeypatch.context() as both_looked_before_either_wrote:
        both_looked_before_either_wrote.setattr(Records, "content", lambda _records, _key: None)
        assert not on_s3.pointers.claim("sequence/tiny/000000000001", {"count": 2})
    assert on_s3.pointers.get("sequence/tiny/000000000001") == {"count": 1}
    assert checkpoints.reserve(on_s3, "tiny", 5) == 2


def test_a_folder_on_s3_is_one_listing_and_an_overwritten_file_is_noticed(
    on_s3: ArtifactStore, folder: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = f"s3://models/{folder.parent.name}-checkpoints"
    for number in range(20):
        path = folder / f"e{number}.safetensors"
        save_file({"weight": torch.tensor([float(number)])}, path)
        on_s3.root.fs.put_file(str(path), f"{source}/{path.name}")
    on_s3.root.fs.pipe_file(f"{source}/optimizer.pt", b"x")
    requests: list[str] = []
    system = type(on_s3.root.fs)
    call = system._call_s3

    def counted(self: object, method: str, *arguments: object, **named: object) -> object:
        requests.append(method)
        return call(self, method, *arguments, **named)

    monkeypatch.setattr(system, "_call_s3", counted)
    first = checkpoints.scan(source)
    assert "head_object" not in requests
    assert len(requests) <= 2
    assert [file.name for file in first.files] == [f"e{number}.safetensors" for number in range(20)]
    assert first.odd == {"optimizer.pt": "is a trainer's own state, not a model's weights"}
    assert checkpoints.scan(source).digest == first.digest
    on_s3.root.fs.put_file(str(folder / "e1.safetensors"), f"{source}/e0.safetensors")  # of equal size
    assert checkpoints.scan(source).files[0].stamp != first.files[0].stamp
    (*_, newest) = checkpoints.discover(on_s3, "tiny", source)
    fetched = checkpoints.fetch(on_s3, newest, source)
    assert sha256_of(fetched) == newest.file.sha256 == sha256_of(folder / "e19.safetensors")
    assert checkpoints.discover(on_s3, "tiny", source) == []


def test_a_store_that_cannot_be_written_reads_what_is_known(
    own_store: ArtifactStore, folder: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(state, folder / "e1.safetensors")
    (known,) = checkpoints.discover(own_store, "tiny", str(folder))
    os.utime(folder / "e1.safetensors")

    def refused(*_arguments: object) -> None:
        raise StoreError("cannot write: Read-only file system")

    for part, name in ((Pointers, "set"), (Pointers, "claim"), (Blobs, "put")):
        monkeypatch.setattr(part, name, refused)
    assert checkpoints.discover(own_store, "tiny", str(folder)) == []
    assert checkpoints.registered(own_store, "tiny") == [known]


def test_a_person_names_a_checkpoint_by_its_key_its_file_or_how_its_key_begins(
    own_store: ArtifactStore, folder: Path, state: State
) -> None:
    def registered(name: str, scale: float) -> str:
        path = folder / name
        save_file({key: tensor * scale for key, tensor in state.items()}, path)
        return checkpoints.register(own_store, "tiny", str(path)).key

    first, second = registered("epoch1.safetensors", 1.0), registered("epoch1.safetensors", 2.0)
    third = registered("epoch10.safetensors", 3.0)
    for name, key in (
        (first, first),
        (first[:-1], first),
        ("epoch1", second),  # the file's newest content, and not the beginning of several
        ("epoch1.safetensors", second),
        ("checkpoints/epoch10.safetensors", third),
        ("epoch10-", third),
    ):
        assert checkpoints.find(own_store, "tiny", name).key == key, name
    with pytest.raises(EdgeAssetsError, match=f"'epoch' may be .*{third}.*: give more of the name"):
        checkpoints.find(own_store, "tiny", "epoch")
    for name in ("epoc2", "", "/"):
        with pytest.raises(UnknownName, match="unknown checkpoint of tiny"):
            checkpoints.find(own_store, "tiny", name)
