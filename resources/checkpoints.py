"""Checkpoints: where training leaves them, and the immutable partitions they become.

A partition is named by content, `<file stem>-<first 8 of sha256>`: the same file dropped twice is one
partition, and a file overwritten in place is a new one. Nothing that is registered is ever overwritten.

Registering records name, hash, size and source, and gives the checkpoint its number: which of two is newer is
decided by numbers, which are given once, and not by clocks, which differ between machines. A file that a person
names is copied into the store at once. One that was found in the checkpoint folder is copied when it is about to
be built: years of history are recorded, not copied. From then on an old partition can be rebuilt after training
has cleaned up; before, a file that was changed or removed is said to be.
"""

import hashlib
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self

from edge_assets.addresses import without_credentials
from edge_assets.core.checkpoint import SAFETENSORS, SUFFIXES
from edge_assets.core.types import Artifact, File, checked_path
from edge_assets.errors import (
    CheckpointError,
    EdgeAssetsError,
    Malformed,
    StoreError,
    UnknownName,
    one_line,
    printable,
)
from edge_assets.hashing import digest, sha256_of
from resources import shards
from resources.inspection import Content, download, inspect, is_local, local_path
from resources.records import warn_once
from resources.store import ArtifactStore

if TYPE_CHECKING:
    from upath import UPath

log = logging.getLogger(__name__)
KEY_LETTERS = 100  # of a partition's key at most
HASH_LETTERS = (8, 16, 32, 64)  # of the hash in a key; more where another content has the shorter key
PROGRAM = ".pt2"
UNREAD_SUFFIXES = (  # weights of a kind that is not read
    *(".pkl", ".pickle", ".h5", ".keras", ".tar", ".gguf", ".msgpack", ".npz", ".distcp"),
    PROGRAM,
)
LISTED_SUFFIXES = {*SUFFIXES, *UNREAD_SUFFIXES}
WEIGHTS = re.compile(  # files with weights in a folder that `save_pretrained` or a trainer wrote
    r"(model|adapter_model|diffusion_pytorch_model|pytorch_model)(-\d{5}-of-\d{5})?\.safetensors|pytorch_model\.bin"
)
TRAINERS_OWN = re.compile(  # what training frameworks save beside the weights
    r"(optim(izer)?|(lr_)?scheduler|(grad_)?scaler|rng_states?|random_states?|training_args|trainer_state)"
    r"([_-](rank[_-]?)?\d+)*|.*_optim_states|(custom_checkpoint|sampler|dataloader|dl_state_dict)(_\d+)?",
    re.IGNORECASE,
)
REMOTE_STAMP = ("size", "ETag", "etag", "md5Hash", "LastModified", "mtime", "modified", "created")


# --- what lies in a folder -------------------------------------------------------------------------------


@dataclass(frozen=True)
class CheckpointFile:
    """A file as listed in a source, with what tells whether it was written to; or a set of files by its first."""

    url: str
    size: int
    stamp: str  # changes whenever the file was written to or replaced, also by one of equal size and time
    name: str  # below the source, with the folder that it is in if that is none of its own


@dataclass(frozen=True)
class Listing:
    """What a source holds: checkpoint files, and why others are none, by name."""

    found: tuple[CheckpointFile, ...] = ()
    odd: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def files(self) -> tuple[CheckpointFile, ...]:
        """In natural order of their names."""
        return tuple(sorted(self.found, key=lambda file: natural(file.name)))

    @cached_property
    def digest(self) -> str:
        """Changes whenever a file came, went, or changed. Cheap: a sensor asks for it at every tick."""
        lines = [f"{file.name}\0{file.stamp}" for file in self.found]
        lines += [f"{name}\0{reason}" for name, reason in self.odd.items()]
        text = "\n".join(sorted(lines))
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def scan(source: str) -> Listing:
    """The checkpoints in a folder or at an fsspec URL: files, sets of files, folders of Hugging Face's.

    Empty if there is no such folder. What cannot be a checkpoint stops nothing: links to nothing, files that cannot be
    looked at, trainers' own state. Raises CheckpointError if the folder itself cannot be listed.
    """
    try:
        entries = _scan_folder(local_path(source)) if is_local(source) else _scan_url(source)
        found = list(entries)
    except FileNotFoundError:
        return Listing()
    except Exception as error:  # whatever an object store's client raises
        place = without_credentials(source)
        raise CheckpointError(f"checkpoints in {place} cannot be listed: {one_line(error)}") from None
    files: list[CheckpointFile] = []
    odd: dict[str, str] = {}
    for entry in found:
        if isinstance(entry, CheckpointFile):
            files.append(entry)
        else:
            name, reason = entry
            odd[name] = reason
    whole, incomplete = _sets_as_one(files)
    return Listing(tuple(whole), dict(sorted({**odd, **incomplete}.items())))


def list_files(source: str) -> list[CheckpointFile]:
    """Checkpoint files of a source, in natural order of their names. Empty if there is no such folder."""
    return list(scan(source).files)


def file_named(source: str, name: str) -> CheckpointFile | None:
    """The file of a source that a person names: by its name, by its stem, or by the folder that it is in."""
    stems = {}
    for file in list_files(source):
        if file.name == name:
            return file
        stems[_own_name(file.name)] = file
    return stems.get(name)


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key by which e2 comes before e10."""
    key = []
    for part in re.split(r"(\d+)", name, flags=re.ASCII):
        is_number = part.isdecimal() and part.isascii()
        key.append((int(part) if is_number else 0, part))
    return key


def _scan_folder(folder: Path) -> Iterator[CheckpointFile | tuple[str, str]]:
    try:
        entries = os.scandir(folder)
    except NotADirectoryError:
        return
    with entries:
        for entry in entries:
            reason = _unwanted(entry.name)
            if reason == "" and not entry.name.startswith(".") and _is_folder(entry):
                yield from _weights_of(_files_in(Path(entry.path), entry.name))
            elif reason is not None:
                yield from _said(entry.name, reason)
            else:
                yield from _looked_at(entry, entry.name)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _files_in(folder: Path, name: str) -> Iterator[CheckpointFile]:
    """Files of a folder of the checkpoint folder's that may be weights. Nothing of one that cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if WEIGHTS.fullmatch(entry.name):
                    found = _looked_at(entry, f"{name}/{entry.name}")
                    yield from (file for file in found if isinstance(file, CheckpointFile))
    except OSError:
        return


def _looked_at(entry: "os.DirEntry[str]", name: str) -> Iterator[CheckpointFile | tuple[str, str]]:
    try:
        info = entry.stat()
    except FileNotFoundError:
        if entry.is_symlink():
            yield name, "is a link to nothing"
        return
    except OSError as error:
        yield name, f"cannot be looked at: {error.strerror}"
        return
    if not stat.S_ISREG(info.st_mode):
        yield name, "is not a file"
        return
    stamp = f"{info.st_size}-{info.st_mtime_ns}-{info.st_ctime_ns}-{info.st_ino}"
    yield CheckpointFile(entry.path, info.st_size, stamp, name)


def _scan_url(source: str) -> Iterator[CheckpointFile | tuple[str, str]]:
    """One listing, which has sizes and times: asking for each file would be a request each. Folders are one each."""
    from upath import UPath

    folder = UPath(source, use_listings_cache=False)
    for entry in folder.fs.ls(folder.path, detail=True):
        name = _last_name(entry)
        reason = _unwanted(name)
        is_itself = str(entry["name"]).rstrip("/") == folder.path.rstrip("/")  # as some stores list a folder
        if reason == "" and entry["type"] == "directory" and not name.startswith(".") and not is_itself:
            yield from _weights_of(_remote_files_in(folder, source, name, entry["name"]))
        elif reason is not None:
            yield from _said(name, reason)
        elif entry["type"] != "file":
            yield name, "is not a file"
        else:
            yield _remote_file(source, name, entry)


def _remote_files_in(folder: "UPath", source: str, name: str, place: str) -> Iterator[CheckpointFile]:
    """Files of a folder of the source's that may be weights."""
    try:
        entries = folder.fs.ls(place, detail=True)
    except FileNotFoundError:
        return  # gone since it was listed
    for entry in entries:
        own_name = _last_name(entry)
        if entry["type"] == "file" and WEIGHTS.fullmatch(own_name):
            yield _remote_file(source, f"{name}/{own_name}", entry)


def _last_name(entry: Mapping[str, Any]) -> str:
    return str(entry["name"]).rstrip("/").rpartition("/")[2]


def _remote_file(source: str, name: str, entry: Mapping[str, Any]) -> CheckpointFile:
    stamp = "-".join(str(entry[key]) for key in REMOTE_STAMP if key in entry)
    return CheckpointFile(f"{source.rstrip('/')}/{name}", entry["size"] or 0, stamp, name)


def _weights_of(files: Iterable[CheckpointFile]) -> Iterator[CheckpointFile | tuple[str, str]]:
    """What of a folder's files are the model's weights: safetensors, if there are any, else a torch file."""
    found = list(files)
    safe = [file for file in found if file.name.endswith(SAFETENSORS)]
    whole = [file for file in safe if not shards.set_of(PurePosixPath(file.name).name)]
    for file in whole or safe or found:
        name = PurePosixPath(file.name).name
        if name.startswith("adapter_"):
            yield file.name, "is an adapter's, not a model's: merge it into the model, and save that"
        else:
            yield file


def _sets_as_one(files: Sequence[CheckpointFile]) -> tuple[list[CheckpointFile], dict[str, str]]:
    """The files with each complete set as one, and what is said of sets that are not complete yet."""
    alone: list[CheckpointFile] = []
    sets: dict[str, dict[int, CheckpointFile]] = {}
    for file in files:
        folder, slash, name = file.name.rpartition("/")
        first = shards.set_of(name)
        if first is None:
            alone.append(file)
        else:
            sets.setdefault(f"{folder}{slash}{first}", {})[shards.number_of(name)] = file
    incomplete = {}
    for first, parts in sets.items():
        names = shards.members(PurePosixPath(first).name)
        missing = [name for number, name in enumerate(names, 1) if number not in parts]
        if missing:
            incomplete[first] = f"is one of {len(names)} files, of which {missing[0]} is not there yet"
            continue
        ordered = [parts[number] for number in sorted(parts)]
        stamps = [file.stamp for file in ordered]
        size = sum(file.size for file in ordered)
        alone.append(CheckpointFile(ordered[0].url, size, digest(stamps), first))
    return alone, incomplete


def _unwanted(name: str) -> str | None:
    """Why a file of that name is no checkpoint: "" where nobody would take it for one, None if it may be one."""
    stem, dot, last = name.rpartition(".")
    suffix = dot + last.lower()
    if name.startswith(".") or suffix not in LISTED_SUFFIXES:
        return ""
    if TRAINERS_OWN.fullmatch(stem):
        return "is a trainer's own state, not a model's weights"
    if suffix == PROGRAM:
        return (
            f"is a program, which could run code: name it as the architecture, and save its state dict as {SAFETENSORS}"
        )
    if suffix in UNREAD_SUFFIXES:
        return f"'{suffix}' is not read: save the state dict as {SAFETENSORS}"
    return None


def _said(name: str, reason: str) -> Iterator[tuple[str, str]]:
    if reason:
        yield name, reason


# --- registrations ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """One registered checkpoint of one model."""

    model: str
    key: str  # the partition
    file: File
    source: str  # the name of a file of this machine, or an address without its credentials
    registered: float  # seconds since the epoch by the clock of the machine that registered it: for people
    number: int = 0  # the higher, the newer; 0 if it was registered before there were numbers

    @property
    def artifact(self) -> Artifact:
        return Artifact((self.file,))

    @property
    def order(self) -> tuple[int, float]:
        """Sorts checkpoints of a model from the oldest to the newest."""
        return self.number, self.registered

    def is_called(self, name: str) -> bool:
        """Whether a file, by its name below the checkpoint folder, is called as the one that was registered."""
        return _in_keys(_own_name(name))[:KEY_LETTERS] == PurePosixPath(self.file.path).stem

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        known = {entry.name: data[entry.name] for entry in fields(cls) if entry.name in data}
        known["file"] = File.from_dict(data["file"])
        return cls(**known)


@dataclass(frozen=True)
class Ledger:
    """The keys of a model's checkpoints, listed once: what a pass over many files asks instead of reading all."""

    store: ArtifactStore
    model: str
    keys: dict[str, list[str]]  # by the first letters of the content's hash, which each key ends with

    @classmethod
    def open(cls, store: ArtifactStore, model: str) -> Self:
        keys: dict[str, list[str]] = {}
        for key in store.pointers.names(f"checkpoints/{model}"):
            keys.setdefault(_hash_in(key), []).append(key)
        return cls(store, model, keys)

    def every_key(self) -> set[str]:
        """All the model's keys."""
        return set(chain.from_iterable(self.keys.values()))

    def find(self, sha256: str) -> Checkpoint | None:
        """The checkpoint with that content."""
        for key in self.keys.get(sha256[: HASH_LETTERS[0]], []):
            checkpoint = _readable(self.store, self.model, key)
            if checkpoint and checkpoint.file.sha256 == sha256:
                return checkpoint
        return None

    def enter(self, url: str, content: Content, number: int, name: str = "") -> Checkpoint:
        """Register a content, by its file's name, or by its `name` below the checkpoint folder.

        Another machine may do so at the same time: both get the one that was first.
        """
        place = PurePosixPath(url.replace(os.sep, "/"))
        stem = _in_keys(_own_name(name or place.name))
        file = File(f"{stem[:KEY_LETTERS]}{place.suffix.lower()}", content.sha256, content.size)
        source = name if name and is_local(url) else recorded(url)
        for letters in HASH_LETTERS:
            key = f"{stem[: KEY_LETTERS - 1 - letters]}-{content.sha256[:letters]}"
            checkpoint = Checkpoint(self.model, key, file, source, registered=time.time(), number=number)
            if self.store.pointers.claim(f"checkpoints/{self.model}/{key}", asdict(checkpoint)):
                self.keys.setdefault(_hash_in(key), []).append(key)
                return checkpoint
            taken = _readable(self.store, self.model, key)
            if taken and taken.file.sha256 == content.sha256:
                return taken
        raise StoreError(f"checkpoint {printable(url, 200)} cannot be registered: every key of it is taken")


def recorded(url: str) -> str:
    """A place as others who read the store see it: no path of this machine, and no credentials."""
    if is_local(url):
        return local_path(url).name
    return without_credentials(url)


def register(store: ArtifactStore, model: str, url: str) -> Checkpoint:
    """Check a file that a person named, register it, and copy it into the store.

    Registering the same content again returns the first. Raises CheckpointError for a file that is missing, broken or
    of an unsupported kind.
    """
    ledger = Ledger.open(store, model)
    with store.workspace() as work:
        content = inspect(url, work)
        checkpoint = ledger.find(content.sha256)
        if checkpoint is None:
            checkpoint = ledger.enter(url, content, reserve(store, model, 1))
        _put(store, checkpoint, download(url, work))
    return checkpoint


def of_content(store: ArtifactStore, model: str, url: str) -> Checkpoint | None:
    """The registered checkpoint that a file has the content of. Raises CheckpointError for a file that is broken."""
    with store.workspace() as work:
        return Ledger.open(store, model).find(inspect(url, work).sha256)


def said_of_a_copy(name: str, checkpoint: Checkpoint) -> str:
    """What a person is told who names a file that was registered by another name."""
    return f"{printable(name, 200)} has the content of {checkpoint.key}: it is one checkpoint"


def reserve(store: ArtifactStore, model: str, count: int) -> int:
    """The first of `count` numbers in a row that are nobody else's, above all that were given before."""
    given = store.pointers.names(f"sequence/{model}")
    first = 1
    if given:
        first = _after(store, model, given[-1])
    while not store.pointers.claim(f"sequence/{model}/{first:012}", {"count": count}):
        first = _after(store, model, f"{first:012}")  # another machine was faster
    return first


def _after(store: ArtifactStore, model: str, block: str) -> int:
    data = store.pointers.get(f"sequence/{model}/{block}") or {}
    return int(block) + max(1, int(data.get("count", 1)))


def registered(store: ArtifactStore, model: str) -> list[Checkpoint]:
    """Every registered checkpoint of a model, oldest first. One whose record cannot be read is named in the log."""
    found = []
    for key in store.pointers.names(f"checkpoints/{model}"):
        checkpoint = _readable(store, model, key)
        if checkpoint:
            found.append(checkpoint)
    return sorted(found, key=lambda checkpoint: checkpoint.order)


def mark_unfit(store: ArtifactStore, checkpoint: Checkpoint, architecture: str, reason: str) -> None:
    """Remember that a checkpoint cannot be loaded into an architecture, by the digest of its code."""
    store.pointers.hint(_unfit_at(checkpoint.model, checkpoint.key), {"architecture": architecture, "reason": reason})


def unfit(store: ArtifactStore, model: str, architecture: str) -> dict[str, str]:
    """Why checkpoints of a model cannot be loaded into an architecture, by key, as far as it was tried."""
    found = {}
    for key in store.pointers.names(f"unfit/{model}"):
        data = store.pointers.get(_unfit_at(model, key)) or {}
        if data.get("architecture") == architecture:
            found[key] = str(data.get("reason", ""))
    return found


def newest(store: ArtifactStore, model: str, architecture: str) -> Checkpoint | None:
    """The newest registered checkpoint of a model that is not known to be unfit for the architecture."""
    left_out = unfit(store, model, architecture)
    for checkpoint in reversed(registered(store, model)):
        if checkpoint.key not in left_out:
            return checkpoint
    return None


def _unfit_at(model: str, key: str) -> str:
    return f"unfit/{model}/{key}"


def lookup(store: ArtifactStore, model: str, key: str) -> Checkpoint:
    """The checkpoint of a partition key.

    Raises UnknownName with the nearest keys, and Malformed, naming the record, where it is there and cannot be read.
    """
    checkpoint = _read(store, model, key)
    if checkpoint is None:
        raise UnknownName(f"checkpoint of {model}", key, store.pointers.names(f"checkpoints/{model}"))
    return checkpoint


def find(store: ArtifactStore, model: str, name: str) -> Checkpoint:
    """The registered checkpoint that a person names: by its key, by its file's name or stem, or by how its key begins.

    Of several contents of one file it is the newest. Raises UnknownName with the nearest keys, EdgeAssetsError where
    the beginning is that of several, and Malformed where its record cannot be read.
    """
    keys = store.pointers.names(f"checkpoints/{model}")
    if name in keys:
        return lookup(store, model, name)
    stem = _in_keys(shards.stem_of(PurePosixPath(name.replace(os.sep, "/")).name))
    same_file = [key for key in keys if key.rpartition("-")[0] == stem]
    if same_file:
        contents = [lookup(store, model, key) for key in same_file]
        return max(contents, key=lambda checkpoint: checkpoint.order)
    beginning = [key for key in keys if key.startswith(name)] if name else []
    if len(beginning) > 1:
        raise EdgeAssetsError(f"'{printable(name)}' may be {' or '.join(beginning)}: give more of the name")
    if not beginning:
        raise UnknownName(f"checkpoint of {model}", name, keys)
    return lookup(store, model, beginning[0])


def _own_name(name: str) -> str:
    """What tells a file, by its name below the checkpoint folder, from others: in folders all are called alike."""
    folder, slash, _ = name.partition("/")
    return folder if slash else shards.stem_of(name)


def _in_keys(stem: str) -> str:
    """A file's stem as keys have it: those must not hold "..."."""
    return re.sub(r"\.{2,}|[^A-Za-z0-9_.-]", "_", stem)


def _readable(store: ArtifactStore, model: str, key: str) -> Checkpoint | None:
    """The registration by that key. One that cannot be read is left out, said once."""
    try:
        return _read(store, model, key)
    except Malformed as error:
        warn_once(f"checkpoint {key} of {model} is left out: {error}")
        return None


def _read(store: ArtifactStore, model: str, key: str) -> Checkpoint | None:
    """The registration by that key, None where there is none. Raises Malformed."""

    def parse(data: dict[str, Any]) -> Checkpoint:
        checkpoint = Checkpoint.from_dict(data)
        if checkpoint.key != key:
            raise Malformed(f"it is the record of checkpoint {printable(checkpoint.key)}")
        return checkpoint

    return store.pointers.get_as(f"checkpoints/{model}/{key}", parse)


def _hash_in(key: str) -> str:
    return key.rpartition("-")[2][: HASH_LETTERS[0]]


# --- what is known of a folder's files -------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """A file that was registered: as it was then, and as which checkpoint."""

    stamp: str
    key: str


def known_files(store: ArtifactStore, model: str, source: str) -> dict[str, Known]:
    """By name, the files of a source that were read before, so that they need not be again."""
    data = store.pointers.get(_known_at(model, source)) or {"files": {}}
    try:
        entries = {name: Known(*entry) for name, entry in data["files"].items()}
    except (AttributeError, KeyError, TypeError):
        return {}  # of another form: each is read again
    return {name: entry for name, entry in entries.items() if _stays_inside(name)}


def _stays_inside(name: str) -> bool:
    """Whether a name from the store is of a file below the folder: others are never read."""
    try:
        checked_path(name)
    except Malformed:
        return False
    return True


def keep_known_files(store: ArtifactStore, model: str, source: str, known: Mapping[str, Known]) -> None:
    """Write down what `known_files` reads. A store that is read-only is read from all the same."""
    entries = {name: [entry.stamp, entry.key] for name, entry in known.items()}
    try:
        store.pointers.set(_known_at(model, source), {"source": recorded(source), "files": entries})
    except StoreError as error:
        log.info("%s: the files of %s are read again next time", error, without_credentials(source))


def _known_at(model: str, source: str) -> str:
    return f"sources/{model}/{digest(without_credentials(source))[:16]}"


def discover(store: ArtifactStore, model: str, source: str, say: Callable[[str], None] = log.info) -> list[Checkpoint]:
    """Register every whole file of a source that is not registered yet, and return those, oldest first.

    Files that did not change since they were registered are not read again. Files that are broken, or still being
    written, are left for later. `say` is told of each, and of files that are copies of one that is registered.
    """
    known = known_files(store, model, source)
    ledger = Ledger.open(store, model)
    keys = ledger.every_key()
    now: dict[str, Known] = {}
    unread: list[CheckpointFile] = []
    for file in scan(source).files:
        if _is_known(file, known, keys):
            now[file.name] = known[file.name]
        else:
            unread.append(file)
    fresh: list[tuple[CheckpointFile, Content]] = []
    for file, content in _contents(store, unread, say):
        registration = ledger.find(content.sha256)
        if registration is None:
            fresh.append((file, content))
        else:
            now[file.name] = Known(file.stamp, registration.key)
            if not registration.is_called(file.name):
                say(said_of_a_copy(file.name, registration))
    new: list[Checkpoint] = []
    first = reserve(store, model, len(fresh)) if fresh else 0
    for number, (file, content) in enumerate(fresh, first):
        entered = ledger.enter(file.url, content, number, file.name)
        now[file.name] = Known(file.stamp, entered.key)
        new.append(entered)
    if now != known:
        keep_known_files(store, model, source, now)
    return new


def _is_known(file: CheckpointFile, known: Mapping[str, Known], keys: set[str]) -> bool:
    entry = known.get(file.name)
    return entry is not None and entry.stamp == file.stamp and entry.key in keys


def _contents(
    store: ArtifactStore, files: Sequence[CheckpointFile], say: Callable[[str], None]
) -> Iterator[tuple[CheckpointFile, Content]]:
    for file in files:
        try:
            with store.workspace() as work:
                yield file, inspect(file.url, work)
        except CheckpointError as error:  # named explicitly, it fails loudly; it may still be being written
            say(f"left out for now: {error}")


# --- the bytes -------------------------------------------------------------------------------------------


def fetch(store: ArtifactStore, checkpoint: Checkpoint, folder: str) -> Path:
    """The checkpoint's verified bytes: from the store, else from a file of the checkpoint folder.

    Raises CheckpointError, saying why, if neither has them.
    """
    keep(store, checkpoint, folder)
    return store.checkout(checkpoint.artifact)


def keep(store: ArtifactStore, checkpoint: Checkpoint, folder: str) -> None:
    """Copy a registered checkpoint into the store, unless it is there, from a file of the checkpoint folder.

    Only from there: what a record in the store names as its source may be any file of this machine. And only if the
    content is the one that was registered. Raises CheckpointError, saying why, otherwise.
    """
    if store.holds(checkpoint.file):
        return
    changed = []
    for url in dict.fromkeys(_candidates(store, checkpoint, folder)):
        with store.workspace() as work:
            try:
                path = download(url, work)
                same = path.is_file() and path.stat().st_size == checkpoint.file.size
                if same and sha256_of(path) == checkpoint.file.sha256:
                    _put(store, checkpoint, path)
                    return
                if path.exists():
                    changed.append(url)
            except (CheckpointError, OSError):
                continue  # not there, or not readable: said below
    why = f"no file of {without_credentials(folder)} has it"
    if changed:
        why = f"{printable(changed[0], 200)} has changed"
    raise CheckpointError(
        f"checkpoint {checkpoint.key} is not in the store, and cannot be taken from where it was registered, "
        f"{printable(checkpoint.source, 200)}: {why} since. Build a file with the same content: "
        f"edge-assets build --model {checkpoint.model} --checkpoint FILE"
    )


def _candidates(store: ArtifactStore, checkpoint: Checkpoint, folder: str) -> Iterator[str]:
    """Files of the checkpoint folder that may have its content."""
    base = folder.rstrip("/")
    if is_local(folder):
        base = str(local_path(folder))
    for name, entry in known_files(store, checkpoint.model, folder).items():
        if entry.key == checkpoint.key:
            yield f"{base}/{name}"
    name = checkpoint.source.replace(os.sep, "/").rpartition("/")[2]
    if name not in ("", ".", ".."):
        yield f"{base}/{name}"  # on another machine the folder may be elsewhere


def _put(store: ArtifactStore, checkpoint: Checkpoint, path: Path) -> None:
    """Copy a file whose hash was found right into the store; one that changes meanwhile does not count."""
    if store.holds(checkpoint.file):
        return
    store.put(path, checkpoint.file.path)
    if not store.holds(checkpoint.file):
        raise CheckpointError(f"checkpoint {printable(str(path), 200)} was written to while it was copied")
