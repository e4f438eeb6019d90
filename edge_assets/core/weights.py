"""Which tensors of a checkpoint file are the architecture's weights, and under which names they lie there.

Trainers save more than weights, and wrap what they train. So a file may be a state dict, or hold some of them under
keys such as `model` or `ema`, whose names may begin with the name of a wrapper. What fits the architecture is taken,
and how it was read is said. Where several fit, nobody guesses: the spec chooses.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from edge_assets.errors import printable

if TYPE_CHECKING:
    import torch

    State: TypeAlias = Mapping[str, torch.Tensor]

DEEPEST = 3  # levels of nesting that are looked into
NO_WEIGHTS = re.compile(r"optim|sched|scaler|rng|random|callback|loops|hparams|hyper", re.IGNORECASE)
# what PyTorch's and Lightning's wrappers call the module that they wrap
WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
OLDER_NORM = re.compile(r"(?P<place>(?:.*\.)?)(?P<name>[^.]+)_(?P<part>[gv])")
NEWER_NORM = re.compile(r"(?P<place>(?:.*\.)?)parametrizations\.(?P<name>[^.]+)\.original(?P<part>[01])")
NEWER_PART = {"g": "0", "v": "1"}
OLDER_PART = {"0": "g", "1": "v"}
COUNTERS = "num_batches_tracked"  # of batch norm, which PyTorch does without as in its older versions
SHOWN = 8  # names listed in a message before it says how many more there are
SHOWN_LETTERS = 160  # of all names of one list together


@dataclass(frozen=True)
class Fit:
    """Tensors of a file under the architecture's names, and what is wrong with them."""

    place: str  # the keys under which they lie, joined by dots; empty: they are the whole file
    prefix: str  # what was taken off their names
    state: "State"
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()  # in shape
    unread: tuple[str, ...] = ()  # names beside the prefix
    remarks: tuple[str, ...] = field(default=())  # how names were changed besides

    @property
    def is_whole(self) -> bool:
        return not (self.missing or self.unexpected or self.differing)

    @property
    def is_plain(self) -> bool:
        """Whether the file is a state dict of the architecture as it stands."""
        return not (self.place or self.prefix or self.remarks)

    @property
    def name(self) -> str:
        """What `ModelSpec.weights` chooses it by."""
        return self.place or self.prefix.rstrip(".")

    def goes_by(self, wanted: str) -> bool:
        """Whether a choice of the spec's means these weights: by their keys, the first of them, or by their prefix."""
        whole = f"{self.place}.{self.prefix}".strip(".")
        if self.place.startswith(f"{wanted}."):
            return True
        return wanted in (self.place, self.prefix.rstrip("."), whole)

    @property
    def faults(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.differing)


def states_in(content: object) -> dict[str, "State"]:
    """Every state dict in what a file holds, by the keys under which it lies, joined by dots."""
    if _is_state(content):
        return {"": content}  # type: ignore[dict-item]  # it is one
    return dict(_nested(content, (), DEEPEST))


def _nested(content: object, place: tuple[str, ...], levels: int) -> Iterator[tuple[str, "State"]]:
    if not isinstance(content, Mapping) or not levels:
        return
    for key, value in content.items():
        if not isinstance(key, str) or NO_WEIGHTS.search(key):
            continue
        if _is_state(value):
            yield ".".join((*place, key)), value
        else:
            yield from _nested(value, (*place, key), levels - 1)


def _is_state(content: object) -> bool:
    import torch

    if not isinstance(content, Mapping) or not content:
        return False
    return all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items())


def fits_of(place: str, state: "State", expected: "State") -> list[Fit]:
    """The state under each prefix that some of its names have before the architecture's; that without one first."""
    prefixes = ["", *_prefixes(state, expected)]
    return [_under(prefix, place, state, expected) for prefix in prefixes]


def _prefixes(state: "State", expected: "State") -> list[str]:
    """What stands before one of the architecture's names, one that is long and so is hardly another module's."""
    for name in sorted(expected, key=len, reverse=True):
        ending = f".{name}"
        found = [key[: -len(name)] for key in state if key.endswith(ending)]
        if found or name in state:
            by_name = sorted(set(found))
            return sorted(by_name, key=len)
    return []


def _under(prefix: str, place: str, state: "State", expected: "State") -> Fit:
    names: dict[str, torch.Tensor] = {}
    unread: list[str] = []
    for key, tensor in state.items():
        if key.startswith(prefix):
            names[key.removeprefix(prefix)] = tensor
        else:
            unread.append(key)
    renamed, remarks = _renamed(names, expected)
    tied = _tied(renamed, expected)
    if tied:
        remarks.append(f"{listing(list(tied))} tied to what is there")
    whole = dict(renamed)
    for name, other in tied.items():
        whole[name] = renamed[other]
    missing: list[str] = []
    differing: list[str] = []
    for name, tensor in expected.items():
        if name in whole and whole[name].shape != tensor.shape:
            differing.append(name)
        if name not in whole and not name.endswith(COUNTERS):
            missing.append(name)
    unexpected = [name for name in whole if name not in expected]
    return Fit(
        place=place,
        prefix=prefix,
        state=whole,
        missing=tuple(sorted(missing)),
        unexpected=tuple(sorted(unexpected)),
        differing=tuple(sorted(differing)),
        unread=tuple(unread),
        remarks=tuple(remarks),
    )


def _renamed(names: "State", expected: "State") -> tuple[dict[str, "torch.Tensor"], list[str]]:
    """The tensors by the architecture's names, as far as wrappers and forms of weight_norm make the difference."""
    renamed: dict[str, torch.Tensor] = {}
    remarks: dict[str, None] = {}
    for name, tensor in names.items():
        found = name
        if name not in expected:
            parts = [part for part in name.split(".") if part not in WRAPPERS]
            unwrapped = ".".join(parts)
            other_norm = _other_norm(unwrapped)
            if unwrapped in expected and unwrapped not in names:
                found = unwrapped
                remarks["wrappers' names taken out"] = None
            elif other_norm in expected and other_norm not in names:
                found = other_norm
                remarks["weight_norm in its other form"] = None
        renamed[found] = tensor
    return renamed, list(remarks)


def _other_norm(name: str) -> str:
    """The name that a part of weight_norm has in its newer form if this is of the older, and the reverse."""
    older = OLDER_NORM.fullmatch(name)
    if older:
        place, inner, part = older.group("place", "name", "part")
        return f"{place}parametrizations.{inner}.original{NEWER_PART[part]}"
    newer = NEWER_NORM.fullmatch(name)
    if newer:
        place, inner, part = newer.group("place", "name", "part")
        return f"{place}{inner}_{OLDER_PART[part]}"
    return name


def _tied(state: "State", expected: "State") -> dict[str, str]:
    """By name, the tensor that is there of those that are one in the architecture: a file need hold it only once."""
    by_memory: dict[tuple[object, ...], list[str]] = {}
    for name, tensor in expected.items():
        if tensor.numel():
            memory = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
            by_memory.setdefault(memory, []).append(name)
    tied = {}
    for names in by_memory.values():
        here = [name for name in names if name in state]
        for name in names:
            if here and name not in state:
                tied[name] = here[0]
    return tied


def without_inner(fits: Sequence[Fit]) -> list[Fit]:
    """Without what lies under prefixes, where the architecture's own names are all there: these are meant."""
    as_they_are = set()
    for fit in fits:
        if not (fit.prefix or fit.remarks or fit.missing):
            as_they_are.add(fit.place)
    return [fit for fit in fits if not fit.prefix or fit.place not in as_they_are]


def distinct(fits: Sequence[Fit]) -> list[Fit]:
    """The fits that differ, each in the form that changes the fewest names."""
    found: list[Fit] = []
    for fit in sorted(fits, key=lambda fit: len(fit.remarks)):
        if not any(_same(fit, other) for other in found):
            found.append(fit)
    return found


def _same(first: Fit, second: Fit) -> bool:
    """Whether two fits are the same tensors under the same names: some trainers save one state dict twice."""
    if first.state.keys() != second.state.keys():
        return False
    return all(tensor is second.state[name] for name, tensor in first.state.items())


def listing(names: Sequence[object], letters: int = 80, together: int = SHOWN_LETTERS) -> str:
    """The first names, each on one line and cut at so many letters, `together` at most, and how many more there are."""
    shown: list[str] = []
    taken = 0
    for name in names[:SHOWN]:
        text = printable(name, letters)
        taken += len(text)
        if shown and taken > together:
            break
        shown.append(text)
    rest = len(names) - len(shown)
    listed = ", ".join(shown)
    if rest:
        return f"{listed} and {rest} more"
    return listed
