"""One look at a checkpoint folder: what is new, registered within a time limit, and what is to be built of it.

What a look has to remember goes to two places. The cursor, which Dagster keeps with every tick, has four short
fields: the name of a record in the store, which look this was, a digest of the folder's listing, and whether anything
waits. The record has the rest, and is written only when something changed. While the listing's digest is the same and
nothing waits, a look reads the listing and nothing else.

Nothing is lost if a process dies. A look first writes down what it asks for, with its own number; only the cursor of
the same look, which Dagster keeps together with the runs, says that they were taken. Without it the next asks again.
"""

import json
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self, TypeVar

import dagster as dg

from edge_assets.defs.assets import checkpoint_partitions
from edge_assets.defs.requests import Runs, stale_requests
from edge_assets.errors import CheckpointError, Malformed, UnknownName, printable
from edge_assets.families.families import family_targets
from edge_assets.spec.model import ModelSpec
from edge_assets.spec.project import checkpoint_folder
from resources import checkpoints
from resources.checkpoints import Checkpoint, CheckpointFile, Known, Ledger, Listing
from resources.inspection import LARGE, Content, inspect, inspect_in_background
from resources.store import ArtifactStore

SECONDS = 20  # a look starts nothing more after so long; Dagster gives up on a tick after 60
PARTITIONS = 1000  # added by one look at most: Dagster asks its database for each
SAID = 20  # messages of one look before the rest is only counted
Say = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Cursor:
    """What Dagster keeps of the last look."""

    record: str = ""
    look: int = 0
    listing: str = ""
    waiting: bool = True

    @classmethod
    def read(cls, text: str | None) -> Self:
        """From JSON; that of an earlier form is like none."""
        data = json.loads(text or "{}")
        is_current = data.keys() == {entry.name for entry in fields(cls)}
        return cls(**data) if is_current else cls()

    def write(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Sighting:
    """A file that waits: until it has settled, is registered, and its partition and runs were taken by Dagster."""

    stamp: str
    look: int  # which first saw it so
    history: bool  # it lay there when the folder was first seen with files: at most the newest of these is built
    number: int | None = None  # of the checkpoint it becomes
    key: str = ""
    build: bool = False
    asked: int = 0  # by which look


@dataclass(frozen=True)
class Record:
    """What is remembered between looks."""

    look: int = 0  # the last that was written down
    begun: bool = False  # a file was ever seen
    history_built: bool = False
    waiting: Mapping[str, Sighting] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)  # stamps of broken files
    odd: Mapping[str, str] = field(default_factory=dict)  # what was said of files that are no checkpoints

    def to_dict(self) -> dict[str, object]:
        waiting = {name: vars(entry) for name, entry in self.waiting.items()}  # flat: `asdict` would copy each value
        return {**vars(self), "waiting": waiting}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        waiting = {name: Sighting(**entry) for name, entry in data["waiting"].items()}
        return cls(**{**data, "waiting": waiting})


@dataclass(frozen=True)
class Answer:
    """What a look asks of Dagster."""

    cursor: Cursor
    partitions: list[str] = field(default_factory=list)  # oldest first
    requests: list[dg.RunRequest] = field(default_factory=list)


def look(
    spec: ModelSpec,
    store: ArtifactStore,
    instance: dg.DagsterInstance,
    cursor: Cursor,
    say: Say,
    seconds: float = SECONDS,
) -> Answer:
    """Look at the model's checkpoint folder once.

    At least one file is registered however short the time. Raises CheckpointError if the folder cannot be listed.
    """
    listing = checkpoints.scan(checkpoint_folder(spec))
    if listing.digest == cursor.listing and not cursor.waiting:
        return Answer(cursor)
    looking = _Look(
        spec=spec,
        store=store,
        instance=instance,
        cursor=cursor,
        say=say,
        until=time.monotonic() + seconds,
    )
    return looking.at(listing)


class _Look:
    """The state of one look."""

    def __init__(
        self,
        spec: ModelSpec,
        store: ArtifactStore,
        instance: dg.DagsterInstance,
        cursor: Cursor,
        say: Say,
        until: float,
    ) -> None:
        self.spec = spec
        self.store = store
        self.cursor = cursor
        self.until = until
        self._say = say
        self.folder = checkpoint_folder(spec)
        self.runs = Runs(instance)
        self.partitions = set(instance.get_dynamic_partitions(checkpoint_partitions(spec).name or ""))
        self.ledger = Ledger.open(store, spec.name)
        self.keys = self.ledger.every_key()
        self.known = checkpoints.known_files(store, spec.name, self.folder)
        self.record_name = cursor.record or uuid.uuid4().hex
        self.record = _read_record(store, self._record_at)
        self.number = max(cursor.look, self.record.look) + 1
        self.history_built = self.record.history_built
        self.waiting: dict[str, Sighting] = {}
        self.refused: dict[str, str] = {}
        self.added: dict[str, tuple[int, float]] = {}  # the order of each new partition
        self.requests: list[dg.RunRequest] = []
        self.messages: list[str] = []

    @property
    def _record_at(self) -> str:
        return f"sensors/{self.spec.name}/{self.record_name}"

    def at(self, listing: Listing) -> Answer:
        known = dict(self.known)
        self._say_what_is_odd(listing)
        self._sight(listing)
        try:
            self._number()
            self._settle({file.name: file for file in listing.files})
        finally:  # what was read need not be read again, also if a later file fails the look
            if self.known != known:
                checkpoints.keep_known_files(self.store, self.spec.name, self.folder, self.known)
            self._write_down(listing)
            self._tell()
        cursor = Cursor(
            record=self.record_name,
            look=self.number,
            listing=listing.digest,
            waiting=bool(self.waiting),
        )
        return Answer(
            cursor=cursor,
            partitions=sorted(self.added, key=lambda key: self.added[key]),
            requests=self.requests,
        )

    def _say_what_is_odd(self, listing: Listing) -> None:
        """Once per file."""
        for name, reason in listing.odd.items():
            if self.record.odd.get(name) != reason:
                self.messages.append(f"{printable(name)} {reason}: it is left alone")

    def _sight(self, listing: Listing) -> None:
        """Bring what waits up to the listing; what Dagster has taken waits no longer."""
        here = {file.name: file for file in listing.files}
        taken = set()
        for name, entry in self.record.waiting.items():
            if entry.asked and entry.asked == self.cursor.look:
                taken.add(name)
            elif entry.build and name not in here:
                self.waiting[name] = entry  # asked for in vain; its bytes may be in the store
        self.known = _named(here, self.known)
        self.refused = _named(here, self.record.refused)
        for name, file in here.items():
            before = self.record.waiting.get(name)
            if name not in taken and before is not None and before.stamp == file.stamp:
                self.waiting[name] = replace(before, asked=0)
            elif not self._is_done(file, name in taken):
                self.waiting[name] = Sighting(
                    stamp=file.stamp,
                    look=self.number,
                    history=not self.record.begun,
                    key=self._key_of(file),
                )

    def _is_done(self, file: CheckpointFile, taken: bool) -> bool:
        """Whether a file is a partition here already, or known to be broken."""
        if self.refused.get(file.name) == file.stamp:
            return True
        key = self._key_of(file)
        # without a record of its own a partition says little: Dagster adds it before it keeps the runs
        return key != "" and (taken or (self.record.begun and key in self.partitions))

    def _key_of(self, file: CheckpointFile) -> str:
        """The checkpoint that the file was registered as, if it has not changed since."""
        known = self.known.get(file.name)
        if known is None or known.stamp != file.stamp or known.key not in self.keys:
            return ""
        return known.key

    def _number(self) -> None:
        """Give what has settled its place in the order: files that settled together, in natural order of names."""
        new = []
        for name, entry in self.waiting.items():
            if entry.number is not None:
                continue
            if entry.key:
                self.waiting[name] = replace(entry, number=_number_of(self.store, self.spec.name, entry.key))
            elif entry.look != self.number:
                new.append(name)
        new.sort(key=checkpoints.natural)
        first = checkpoints.reserve(self.store, self.spec.name, len(new)) if new else 0
        for number, name in enumerate(new, first):
            self.waiting[name] = replace(self.waiting[name], number=number)

    def _settle(self, files: Mapping[str, CheckpointFile]) -> None:
        """Register and ask for what has settled, the newest first, while there is time."""
        settled = []
        for name, entry in self.waiting.items():
            if entry.number is not None:
                settled.append((entry.number, checkpoints.natural(name), name))
        settled.sort(reverse=True)
        for position, (_number, _natural, name) in enumerate(settled):
            is_late = position > 0 and time.monotonic() > self.until
            if is_late or len(self.added) >= PARTITIONS:
                break
            try:
                self._settle_one(name, files.get(name))
            except CheckpointError as error:
                self.messages.append(f"not a whole checkpoint, left alone until it changes: {error}")
                self.refused[name] = self.waiting.pop(name).stamp
            except Malformed as error:
                self.messages.append(f"{printable(name)} is left alone: {error}")
                del self.waiting[name]
            except UnknownName:
                del self.waiting[name]  # it was retired meanwhile

    def _settle_one(self, name: str, file: CheckpointFile | None) -> None:
        entry = self.waiting[name]
        is_due = entry.build or not entry.history or not self.history_built
        build = is_due and self.spec.automation.on_checkpoint
        if entry.key in self.partitions and not build:
            self.waiting[name] = replace(entry, asked=self.number)
            return
        checkpoint = self._registered(entry, file)
        if checkpoint is None:
            return  # its hash is still being computed
        if file is not None:
            self.known[name] = Known(entry.stamp, checkpoint.key)
        if build:
            self._request(checkpoint)
        if entry.history and build:
            self.history_built = True
        if checkpoint.key not in self.partitions:
            self.added[checkpoint.key] = checkpoint.order
        self.waiting[name] = replace(entry, key=checkpoint.key, build=build, asked=self.number)

    def _registered(self, entry: Sighting, file: CheckpointFile | None) -> Checkpoint | None:
        if entry.key:
            return checkpoints.lookup(self.store, self.spec.name, entry.key)
        assert file is not None  # what is gone and has no key does not wait
        content = self._content(file)
        if content is None:
            return None
        return self.ledger.find(content.sha256) or self.ledger.enter(file.url, content, entry.number or 0, file.name)

    def _content(self, file: CheckpointFile) -> Content | None:
        if file.size >= LARGE:
            return inspect_in_background(file.url, file.stamp, self.store.cache)
        with self.store.workspace() as work:
            return inspect(file.url, work)

    def _request(self, checkpoint: Checkpoint) -> None:
        """Ask for what is stale of a checkpoint that never ran here, and keep its bytes until then."""
        families = list(family_targets(self.spec))
        if any(self.runs.has(self.spec, family, checkpoint.key) for family, _targets in families):
            return
        requests: list[dg.RunRequest] = []
        for family, targets in families:
            requests += stale_requests(
                spec=self.spec,
                family=family,
                targets=targets,
                checkpoint=checkpoint,
                store=self.store,
                runs=self.runs,
                run_key=checkpoint.file.sha256,
            )
        if requests and checkpoint.file.size < LARGE:  # a larger one is copied by its run
            checkpoints.keep(self.store, checkpoint, self.folder)
        self.requests += requests

    def _write_down(self, listing: Listing) -> None:
        before = replace(self.record, look=0)
        now = Record(
            begun=self.record.begun or bool(listing.files),
            history_built=self.history_built,
            waiting=self.waiting,
            refused=self.refused,
            odd=dict(listing.odd),
        )
        if now != before:
            self.store.pointers.set(self._record_at, replace(now, look=self.number).to_dict())

    def _tell(self) -> None:
        for message in self.messages[:SAID]:
            self._say(message)
        if len(self.messages) > SAID:
            self._say(f"and {len(self.messages) - SAID} more such files")


def _named(names: Collection[str], entries: Mapping[str, T]) -> dict[str, T]:
    """The entries that have one of the names."""
    return {name: entry for name, entry in entries.items() if name in names}


def _read_record(store: ArtifactStore, at: str) -> Record:
    try:
        return Record.from_dict(store.pointers.get(at) or {"waiting": {}})
    except (AttributeError, KeyError, TypeError):
        return Record()  # of another form: everything is sighted anew


def _number_of(store: ArtifactStore, model: str, key: str) -> int:
    """The place in the order that a checkpoint has already."""
    try:
        return checkpoints.lookup(store, model, key).number
    except (Malformed, UnknownName):
        return 0  # said when it is its turn
