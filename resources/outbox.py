"""What is to be logged waits in the store until MLflow has it.

    outbox/<cell>/<kind>-<run>           waits
    outbox-trouble/<cell>/<kind>-<run>   how often sending it failed
    outbox-refused/<cell>/<kind>-<run>   failed too often by its own fault: put aside for a person

A cell is `model/family/checkpoint/target`; what goes on over all checkpoints has `history` in the checkpoint's place,
and its entries the step at the end of their names. Every machine that shares the store sends what waits, so an entry
may vanish at any time, and may be one that only a later version understands.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Self

from edge_assets.hashing import canonical_json, digest
from resources.store import ArtifactStore

if TYPE_CHECKING:
    from upath import UPath

PARENT = "parent"
HISTORY = "history"  # in the place of a checkpoint, whose keys end with a hash
KINDS = ("variant", "report", "release", "scorecard", "history")  # in the order in which they are sent
WAITING, TROUBLE, REFUSED = "outbox", "outbox-trouble", "outbox-refused"


class BadEntry(Exception):
    """An entry that cannot be sent, whatever the server. The message says why."""


class OfLaterVersion(Exception):
    """An entry that a later version of edge-assets wrote, and only that can send."""


@dataclass(frozen=True)
class Entry:
    """One thing to log: a child run (a variant), or additions to one that exists, or to the parent.

    `datasets` has for each data set its name, digest, context, source and, as far as known, samples and fields.
    """

    cell: str  # model/family/checkpoint/target
    run: str  # the variant's name, or PARENT
    kind: str  # "variant" opens a run; "report", "release", "scorecard" and "history" add to it
    parameters: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    artifact: Mapping[str, object] | None = None  # an Artifact as JSON
    model: Mapping[str, object] | None = None  # flavor and signature of `artifact`
    version: Mapping[str, object] | None = None  # register this run's model as a version with these tags
    description: str = ""  # Markdown: of the run, or of the version that is registered
    datasets: Sequence[Mapping[str, object]] = ()  # what the numbers were computed on
    step: int | None = None  # the metrics are one step of the run's: the number of a checkpoint
    time_ms: int | None = None  # of the step

    @property
    def name(self) -> str:
        """What tells it from the other entries of its cell."""
        name = f"{self.kind}-{self.run}"
        return name if self.step is None else f"{name}-{self.step}"

    @property
    def key(self) -> str:
        """Where it waits."""
        return f"{WAITING}/{self.cell}/{self.name}"

    @property
    def digest(self) -> str:
        """Changes when there is something new to log; who logged it does not count."""
        data = asdict(self)
        data["tags"] = {name: value for name, value in self.tags.items() if not name.startswith("dagster.")}
        for name in ("description", "datasets", "step", "time_ms"):
            if data[name] in ("", (), [], None):
                del data[name]  # what has none is the same as before there were any
        return digest(data)

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """The entry that `asdict` gave. Raises BadEntry for what is none, and OfLaterVersion for what may be one."""
        if not isinstance(data, dict):
            raise BadEntry("it is no entry of the outbox")
        later = sorted(data.keys() - {own.name for own in fields(cls)})
        if later:
            raise OfLaterVersion(f"it has fields that this version of edge-assets does not know: {', '.join(later)}")
        missing = [name for name in ("cell", "run", "kind") if not isinstance(data.get(name), str)]
        if missing:
            raise BadEntry(f"it is no entry of the outbox: {', '.join(missing)} is missing")
        if data["kind"] not in KINDS:
            raise OfLaterVersion(f"its kind is '{data['kind']}', which this version of edge-assets does not know")
        if data["cell"].count("/") != 3:
            raise BadEntry(f"its cell is '{data['cell']}', not <model>/<family>/<checkpoint>/<target>")
        return cls(**data)


@dataclass(frozen=True)
class Outbox:
    """The entries that wait in one store."""

    store: ArtifactStore

    def put(self, entry: Entry) -> None:
        self.store.pointers.set(entry.key, asdict(entry))

    def keys(self) -> list[str]:
        """Where entries wait, in the order to send them: runs before what adds to them, troublesome ones last."""
        trouble = {key.partition("/")[2] for key in self._below(TROUBLE)}

        def rank(key: str) -> tuple[bool, int, str]:
            kind = key.rpartition("/")[2].partition("-")[0]
            order = KINDS.index(kind) if kind in KINDS else len(KINDS)
            return key.partition("/")[2] in trouble, order, key

        return sorted(self._below(WAITING), key=rank)

    def read(self, key: str) -> Entry | None:
        """The entry at `key`; None if another machine has sent it since. Raises what `Entry.from_dict` raises."""
        data = self.store.pointers.get(key)
        if data is not None:
            return Entry.from_dict(data)
        if key in self._below(key.rpartition("/")[0]):
            raise BadEntry("it is not readable as JSON")
        return None

    def waits(self, key: str) -> bool:
        return self.store.pointers.get(key) is not None

    def drop(self, entry: Entry) -> None:
        """Forget an entry that was sent, unless a newer one was put in its place meanwhile."""
        if self.store.pointers.get(entry.key) == json.loads(canonical_json(asdict(entry))):
            self._remove(entry.key)

    def postpone(self, key: str) -> None:
        """Let the others go first next time: this one was being sent as the server stopped answering."""
        self._note(key, self._failures(key))

    def count_failure(self, key: str) -> int:
        """Note that the entry failed by its own fault. Returns how often it has by now."""
        failures = self._failures(key) + 1
        self._note(key, failures)
        return failures

    def refuse(self, key: str) -> str:
        """Put an entry aside. Returns where it is now and how it comes back, as a sentence."""
        aside = _moved(key, REFUSED)
        data = self.store.pointers.get(key)
        if data is None:
            data = {"unreadable": self._text(key)}
        self.store.pointers.set(aside, data)
        self._remove(key)
        return f"It was put aside. Once that is mended, move {self._path(aside)} to {self._path(key)}"

    def _remove(self, key: str) -> None:
        self.store.pointers.drop(key)
        self.store.pointers.drop(_moved(key, TROUBLE))

    def _failures(self, key: str) -> int:
        noted = self.store.pointers.get(_moved(key, TROUBLE))
        failures = noted.get("failures") if isinstance(noted, dict) else None
        return failures if isinstance(failures, int) else 0

    def _note(self, key: str, failures: int) -> None:
        self.store.pointers.set(_moved(key, TROUBLE), {"failures": failures})

    def _text(self, key: str) -> str:
        try:
            return self._path(key).read_bytes().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def _path(self, key: str) -> "UPath":
        return self.store.root / "pointers" / f"{key}.json"

    def _below(self, prefix: str) -> Iterator[str]:
        return self.store.pointers.keys(prefix)


def _moved(key: str, to: str) -> str:
    return f"{to}/{key.partition('/')[2]}"
