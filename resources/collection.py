"""Freeing what nothing needs: results and blobs of the store, and what this machine keeps of them.

A result is needed while an asset partition points at it, or another needed result was made from it. Every other goes
once it was not used for a while. A build that works at the same time loses nothing, and neither does a collection that
is killed at any point, because of the order and of the times:

1. Files are listed, then pointers and memos are read. Whoever starts to use a file later sets its time anew.
2. Pointers of old checkpoints go, then memos, then blobs that no remaining memo or pointer names. Each is looked at
   once more as it goes: what was touched since stays.
3. A blob younger than the grace period always stays: its memo may be about to be written.

A memo without its blobs and a pointer without its memo are results to build again, so to stop in between is no harm.
"""

import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from edge_assets.core.types import SHA256, Result
from edge_assets.errors import Malformed, StoreError, UnknownName
from resources import folders
from resources.blobs import FRESH
from resources.checkouts import STAGING
from resources.pointers import TYPES, results_of
from resources.records import parsed
from resources.storage import TEMPORARY, Stat, Storage, put_back_unfinished, remove_unused
from resources.store import ArtifactStore
from resources.workspaces import WORK

GRACE = 2 * FRESH  # seconds: a file younger than this stays, whatever names it
RELEASE = "release"  # the asset whose result is a released folder
# What a plan asks for though no pointer names it and nothing is made from it: kept while what it was made from is.
COMPANIONS = ("data_check", "soundness", "sizes", "signature", "benchmark_report", "observation")
ASSET_PARTS = 6  # of an asset pointer's key: assets/model/family/artifact/checkpoint/target
NO_ROOTS = ("scorecards", "sources", "devices")  # pointers that name results without needing them

RESULTS, POINTERS, BLOBS, CORRUPT = "results", "pointers of older checkpoints", "blobs", "corrupt blobs"
LEFTOVERS, TREES, KEPT, LOCKS = "leftovers of killed processes", "checked-out files", "resumable work", "locks"
LOGS = "logs of failures"
Step = Callable[[str], None]
# Keys that edge-assets gives. A folder of the store may be a link, and a store may lie where other things do: what is
# called otherwise is somebody else's, whatever its age.
BLOB = re.compile(r"blobs/[0-9a-f]{2}/[0-9a-f]{64}")
MEMO = re.compile(r"recipes/[0-9a-f]{2}/[0-9a-f]{64}\.json")
SET_ASIDE = re.compile(r"corrupt/[0-9a-f]{64}-[0-9a-f]{8}")
ON_ITS_WAY = re.compile(rf"{TEMPORARY}/[0-9a-f]{{32}}")
FORMERLY_ON_ITS_WAY = re.compile(r"(blobs|recipes|pointers)/(.+/)?\.[^/]+\.[0-9a-f]+")  # of earlier versions
LEFTOVERS_LIE_IN = {
    TEMPORARY: ON_ITS_WAY,
    "blobs": FORMERLY_ON_ITS_WAY,
    "recipes": FORMERLY_ON_ITS_WAY,
    "pointers": FORMERLY_ON_ITS_WAY,
}


@dataclass(frozen=True)
class Policy:
    """What to free. Times are in seconds."""

    older_than: float = 30 * 24 * 3600  # not used for so long
    keep: int | None = None  # how many of a model's newest checkpoints keep all they have; None: all of them
    models: Collection[str] = ()  # whose results go; empty: all models', and those of none
    grace: float = GRACE
    dry_run: bool = False


@dataclass
class Freed:
    """How many files of each kind were freed, and their bytes."""

    counts: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)  # what was not freed, and why

    def add(self, kind: str, size: int) -> None:
        self.counts[kind] += 1
        self.sizes[kind] += size


@dataclass(frozen=True)
class Memo:
    """A result in the store, with what decides whether it stays."""

    stat: Stat
    result: Result | None  # None where it cannot be read, which makes it absent

    @property
    def blobs(self) -> Iterable[str]:
        if self.result is None or self.result.artifact is None:
            return []
        return [file.sha256 for file in self.result.artifact.files]

    @property
    def name(self) -> str:
        return self.stat.key.rpartition("/")[2].removesuffix(".json")


@dataclass(frozen=True)
class Pointed:
    """What pointers need: recipes of results that are kept warm with what they were made from, and blobs."""

    warm: frozenset[str] = frozenset()  # sha256 of recipes
    contents: frozenset[str] = frozenset()  # and of results
    alone: frozenset[str] = frozenset()  # recipes of results that are kept without what they were made from
    blobs: frozenset[str] = frozenset()
    dropped: tuple[Stat, ...] = ()  # pointers that go
    released_from: frozenset[str] = frozenset()  # recipes that only dropped pointers name, of the policy's models


def collect(
    store: ArtifactStore,
    policy: Policy,
    exports: Sequence[Path] = (),
    say: Step = lambda _line: None,
) -> Freed:
    """Free what the policy lets go. `exports` are folders with released and exported folders.

    Raises StoreError for a store that may not be written, that has a version unknown here, or whose pointers cannot be
    read, and for a second collection at the same time; nothing is freed then.
    """
    if store.read_only:
        raise StoreError("a store that is opened to read only is not collected")
    store.records.check_version()
    if not store.is_local and not str(store.root).startswith(("s3://", "s3a://")):
        raise StoreError(f"only stores in a folder or on S3 can be collected, and this one is {store.storage.shown()}")
    lock = store.cache / "locks" / "collection"
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, blocking=False):
            freed = Freed()
            _collect_store(store, policy, freed, say)
            _collect_cache(store, policy, freed, exports)
            return freed
    except Timeout:
        raise StoreError("another collection of this state folder is running: nothing was done") from None


# --- the store -----------------------------------------------------------------------------------------------


def _collect_store(store: ArtifactStore, policy: Policy, freed: Freed, say: Step) -> None:
    storage = store.storage
    now = time.time()
    unused = now - max(policy.older_than, policy.grace)
    settled = now - policy.grace
    if not policy.dry_run:
        put_back_unfinished(storage)
    say("listing the store")
    blobs = list(_ours(storage, "blobs", BLOB))  # before anything is read: what is used later has a later time
    memos = list(_memos(store))
    say(f"reading {len(memos)} results and the pointers")
    pointed = _pointed(store, policy, unused)
    doomed = _doomed(memos, pointed, policy, unused)
    for stat in pointed.dropped:
        _remove(store, stat, unused, policy, freed, POINTERS)
    removed = {memo.name for memo in doomed if _remove(store, memo.stat, unused, policy, freed, RESULTS)}
    needed = set(pointed.blobs)
    for memo in memos:
        if memo.name not in removed:
            needed.update(memo.blobs)
    for stat in blobs:
        name = stat.key.rpartition("/")[2]
        if name not in needed and stat.modified <= settled:
            _remove(store, stat, settled, policy, freed, BLOBS)
    for stat in _ours(storage, "corrupt", SET_ASIDE):
        if stat.modified <= unused:
            _remove(store, stat, unused, policy, freed, CORRUPT)
    for folder, names in LEFTOVERS_LIE_IN.items():
        for stat in _ours(storage, folder, names):
            if stat.modified <= settled:
                _remove(store, stat, settled, policy, freed, LEFTOVERS)


def _ours(storage: Storage, folder: str, names: re.Pattern[str]) -> Iterator[Stat]:
    """The files in a folder of the store that have a name which edge-assets gives."""
    return (stat for stat in storage.files(folder) if names.fullmatch(stat.key))


def _remove(
    store: ArtifactStore,
    stat: Stat,
    since: float,
    policy: Policy,
    freed: Freed,
    kind: str,
) -> bool:
    """Remove a file that was not touched after `since`, or only count it. Returns whether it goes."""
    if policy.dry_run:
        goes = stat.modified <= since
    elif kind == LEFTOVERS:
        store.storage.remove(stat.key)
        goes = True
    else:
        goes = remove_unused(store.storage, stat.key, since)
    if goes:
        freed.add(kind, stat.size)
    return goes


def _memos(store: ArtifactStore) -> Iterator[Memo]:
    stats = {stat.key: stat for stat in _ours(store.storage, "recipes", MEMO)}
    for key, content in store.storage.read_many(list(stats)):
        try:
            yield Memo(stats[key], Result.from_dict(parsed(content), takes_any_facts=True))
        except Malformed:
            yield Memo(stats[key], None)


def _doomed(memos: Sequence[Memo], pointed: Pointed, policy: Policy, unused: float) -> list[Memo]:
    """Memos that nothing needs and that were not used of late."""
    young = {memo.name for memo in memos if memo.stat.modified > unused}
    needed = _closure(memos, pointed.warm | young, pointed.contents) | pointed.alone
    doomed = [memo for memo in memos if memo.name not in needed and memo.stat.modified <= unused]
    if not policy.models:
        return doomed
    own = _closure(memos, pointed.released_from, frozenset())
    return [memo for memo in doomed if memo.name in own]


def _closure(memos: Sequence[Memo], names: Collection[str], contents: Collection[str]) -> set[str]:
    """Names of the memos named, of those that gave the contents, of all that they were made from, and companions."""
    by_content: dict[str, list[Memo]] = {}
    for memo in memos:
        if memo.result:
            by_content.setdefault(memo.result.sha256, []).append(memo)
    found: set[str] = set()
    waiting = [memo for memo in memos if memo.name in names]
    reached = set(contents)
    for content in contents:
        waiting += by_content.get(content, [])
    while waiting:
        memo = waiting.pop()
        if memo.name in found or memo.result is None:
            continue
        found.add(memo.name)
        reached.add(memo.result.sha256)
        for content in memo.result.recipe.inputs.values():
            waiting += by_content.get(content, [])
    for memo in memos:
        if memo.result and memo.result.recipe.step in COMPANIONS:
            made_from = [content for content in memo.result.recipe.inputs.values() if content in by_content]
            if made_from and reached.issuperset(made_from):
                found.add(memo.name)
    return found


# --- what pointers need ----------------------------------------------------------------------------------------


def _pointed(store: ArtifactStore, policy: Policy, unused: float) -> Pointed:
    stats = _pointers_with_roots(store)
    texts = dict(store.storage.read_many([stat.key for stat in stats.values()]))
    old = _older_checkpoints(store, stats, texts, policy)
    warm: set[str] = set()
    contents: set[str] = set()
    alone: set[str] = set()
    blobs: set[str] = set()
    dropped: list[Stat] = []
    from_dropped: set[str] = set()
    for key, stat in stats.items():
        parts = key.split("/")
        content = texts.get(stat.key)
        if content is None:
            continue  # dropped since it was listed
        if parts[0] != "assets" or len(parts) != ASSET_PARTS:
            blobs.update(_hashes(_readable(store, stat, content)))
            continue
        _assets, model, _family, artifact, checkpoint, _target = parts
        results = list(_results(content))
        names = {result.recipe.sha256 for result in results}
        if (model, checkpoint) not in old:
            warm |= names
            contents |= {result.sha256 for result in results}
        elif artifact == RELEASE or stat.modified > unused:
            alone |= names
        else:
            dropped.append(stat)
            from_dropped |= names
            continue
        for result in results:
            if result.artifact:
                blobs.update(file.sha256 for file in result.artifact.files)
    return Pointed(
        warm=frozenset(warm),
        contents=frozenset(contents),
        alone=frozenset(alone),
        blobs=frozenset(blobs),
        dropped=tuple(dropped),
        released_from=frozenset(from_dropped),
    )


def _pointers_with_roots(store: ArtifactStore) -> dict[str, Stat]:
    found = {}
    for stat in store.storage.files("pointers"):
        key = stat.key.removeprefix("pointers/").removesuffix(".json")
        temporary = stat.key.rpartition("/")[2].startswith(".")
        if stat.key.endswith(".json") and not temporary and key.partition("/")[0] not in NO_ROOTS:
            found[key] = stat
    return found


def _older_checkpoints(
    store: ArtifactStore,
    stats: Mapping[str, Stat],
    texts: Mapping[str, bytes],
    policy: Policy,
) -> set[tuple[str, str]]:
    """Registered checkpoints of the policy's models that are not among the newest to keep, as (model, key)."""
    registered: dict[str, list[tuple[tuple[float, float], str]]] = {}
    for key, stat in stats.items():
        kind, _, rest = key.partition("/")
        if kind != "checkpoints" or stat.key not in texts:
            continue
        model, _, checkpoint = rest.rpartition("/")
        data = _readable(store, stat, texts[stat.key])
        order = (_number(store, stat, data.get("number", 0)), _number(store, stat, data.get("registered")))
        registered.setdefault(model, []).append((order, checkpoint))
    for model in policy.models:
        if model not in registered:
            raise UnknownName("model with checkpoints", model, registered)
    if policy.keep is None:
        return set()
    old = set()
    for model in policy.models or registered:
        ordered = sorted(registered[model])
        old |= {(model, checkpoint) for _order, checkpoint in ordered[: max(0, len(ordered) - policy.keep)]}
    return old


def _number(store: ArtifactStore, stat: Stat, value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise StoreError(
        f"{store.storage.shown(stat.key)} does not say when its checkpoint was registered: nothing was freed"
    )


def _readable(store: ArtifactStore, stat: Stat, content: bytes) -> dict[str, Any]:
    """A pointer's data. Raises StoreError where it cannot be read: it may need anything."""
    try:
        return parsed(content)
    except Malformed as error:
        where = store.storage.shown(stat.key)
        raise StoreError(f"{where} cannot be read ({error}), so nothing was freed: correct or remove it") from None


def _results(content: bytes) -> Iterator[Result]:
    """The results in an asset pointer; none where it is absent for everybody else too."""
    try:
        data = parsed(content)
        found = TYPES[str(data.get("type"))].from_dict(data.get("value") or {})
    except (Malformed, KeyError):
        return
    yield from results_of(found)


def _hashes(value: object) -> Iterator[str]:
    """Every sha256 anywhere in a record, whatever kind of pointer it is and whichever version wrote it."""
    if isinstance(value, str) and SHA256.fullmatch(value):
        yield value
    elif isinstance(value, dict):
        for child in value.values():
            yield from _hashes(child)
    elif isinstance(value, list):
        for child in value:
            yield from _hashes(child)


# --- this machine's cache ------------------------------------------------------------------------------------


def _collect_cache(
    store: ArtifactStore,
    policy: Policy,
    freed: Freed,
    exports: Sequence[Path],
) -> None:
    now = time.time()
    unused = now - max(policy.older_than, policy.grace)
    settled = now - policy.grace
    _leftovers(store.cache / "work", WORK, settled, policy, freed)
    for base in exports:
        for parent in sorted({path.parent for path in base.rglob(f"*{STAGING}*")}):
            _leftovers(parent, STAGING, settled, policy, freed)
    for tree in _entries(store.cache / "trees"):
        if _time(tree) <= unused:
            _remove_tree(store, tree, unused, policy, freed)
    for folder in _entries(store.cache / "kept"):
        if max(_time(path) for path in (folder, *folder.rglob("*"))) <= unused:
            with _free(store, folder.name, policy) as free:
                if free:
                    _remove_local(folder, policy, freed, KEPT)
    for log in _entries(store.cache / "failures"):
        if _time(log) <= unused:
            _remove_local(log, policy, freed, LOGS)
    for lock in _entries(store.cache / "locks"):
        if lock.name != "collection" and _time(lock) <= settled:
            with _free(store, lock.name, policy) as free:
                if free:
                    _remove_local(lock, policy, freed, LOCKS)


def _leftovers(parent: Path, prefix: str, settled: float, policy: Policy, freed: Freed) -> None:
    """Private folders whose process is dead, and those of an earlier version, which held no lock, by their age."""
    for folder in folders.abandoned(parent):
        ours = folder.name.startswith(prefix)
        if ours or (prefix == WORK and _time(folder) <= settled):
            _remove_local(folder, policy, freed, LEFTOVERS)


def _remove_tree(
    store: ArtifactStore,
    tree: Path,
    unused: float,
    policy: Policy,
    freed: Freed,
) -> None:
    """Set a checked-out tree aside, and remove it unless a process has just begun to use it."""
    if policy.dry_run:
        freed.add(TREES, folders.size_of(tree))
        return
    with store.workspace() as work:
        aside = work / tree.name
        try:
            tree.rename(aside)
        except FileNotFoundError:
            return
        if _time(aside) <= unused:
            freed.add(TREES, folders.size_of(aside))
            return
        try:
            aside.rename(tree)
        except OSError:
            pass  # checked out anew meanwhile


def _remove_local(path: Path, policy: Policy, freed: Freed, kind: str) -> None:
    freed.add(kind, folders.size_of(path))
    if policy.dry_run:
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _free(store: ArtifactStore, name: str, policy: Policy) -> Iterator[bool]:
    """Whether nobody else holds the lock `name`, and then hold it."""
    path = store.cache / "locks" / name
    if policy.dry_run and not path.exists():
        yield True
        return
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _entries(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(folder.iterdir())


def _time(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return time.time()  # gone: not ours to remove
