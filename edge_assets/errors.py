"""Errors that are the user's to fix, and what to show of any other: what was wrong, where, and what to do."""

from __future__ import annotations

import re
import reprlib
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from edge_assets.addresses import hide_credentials

SHOWN = 700  # characters of a foreign message that a person is shown; the rest is in a log
# what torch.export and others print around what was wrong: where to find more, which is in the log too
SIDE_NOTES = re.compile(
    r"https?://|TORCH_?\w*=|stack trace|[Ff]or (more|extended) (information|logs)|^Caused by: \(|"
    r"replace your `export\(\)` call|^\(Refer to"
)
TRACEBACK = re.compile(r"\bTraceback\b.*most recent call last")
RAISED = re.compile(r"\w+(Error|Exception|Interrupt)\b")  # the last line of a traceback
# escape sequences, control characters but tab and newline, and halves of characters, which no output takes
CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
PRODUCT = Path(__file__).parent
MOST_FAULTS = 20  # of one spec, before the rest is only counted
Fault = tuple[str, str]  # a field of what a user wrote, and why it is wrong


class EdgeAssetsError(Exception):
    """Base of every error whose message is meant for the user, shown without a traceback."""


class InvalidSpec(EdgeAssetsError):
    """A ModelSpec or a catalog entry is wrong. The message names field and reason of every fault, each on a line."""

    def __init__(self, field: str, reason: str, others: Sequence[Fault] = ()) -> None:
        self.field = field
        self.faults: tuple[Fault, ...] = ((field, reason), *others)
        lines = [f"{place}: {why}" for place, why in self.faults[:MOST_FAULTS]]
        if len(self.faults) > MOST_FAULTS:
            lines.append(f"and {len(self.faults) - MOST_FAULTS} more faults")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type[InvalidSpec], tuple[str, str, Sequence[Fault]]]:
        (field, reason), *others = self.faults
        return InvalidSpec, (field, reason, others)


class UnknownName(EdgeAssetsError):
    """A model, target or checkpoint that is not registered. The message offers the nearest names."""

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        hint = did_you_mean(name, names) or f"Known: {', '.join(names) or 'none'}."
        super().__init__(f"unknown {what} '{printable(name, 200)}'. {hint}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The sentence that offers the nearest of the known names; empty where none is near."""
    near = get_close_matches(name, sorted(known), n=3, cutoff=0.4)
    return f"Did you mean {' or '.join(near)}?" if near else ""


def with_nearest(reason: str, name: str, known: Iterable[str]) -> str:
    """The reason why a name is wrong, with the nearest of the known names where there is one."""
    near = did_you_mean(name, known)
    return f"{reason}. {near}" if near else reason


class CheckpointError(EdgeAssetsError):
    """A checkpoint that is missing, truncated, unsafe to read, or not this architecture's."""


class ReferenceFault(EdgeAssetsError):
    """A network that is no reference: what it gives for a sample depends on something else than the sample."""


class DataError(EdgeAssetsError):
    """Calibration or evaluation data that cannot give a trustworthy result."""


class ExportError(EdgeAssetsError):
    """A conversion that failed. The message names the operator and module where it can."""


class ConverterError(EdgeAssetsError):
    """A toolchain that crashed, hung or raised. The message carries the end of its log, `log` all of it."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log

    def __reduce__(self) -> tuple[type[ConverterError], tuple[str, str]]:
        return ConverterError, (str(self), self.log)


class MeasurementError(EdgeAssetsError):
    """One variant's measuring process that died, hung or raised; `variant` names it."""

    def __init__(self, variant: str, message: str, log: str = "") -> None:
        super().__init__(f"{variant}: {message}")
        self.variant, self.message, self.log = variant, message, log


class DeviceError(EdgeAssetsError):
    """A device that cannot be reached, is not what it should be, is busy, or went away."""


class UserCodeError(EdgeAssetsError):
    """Code that a spec names raised. The message says which, what it raised, and in which line."""


class Refused(EdgeAssetsError):
    """A step that makes no sense for this graph. Its message is the reason, and nothing is built or verified."""


class StoreError(EdgeAssetsError):
    """The artifact store could not be read or written."""


class Malformed(StoreError):
    """A record in the store that has not the shape of what it should be, or names a file outside of its artifact."""


class MissingTool(EdgeAssetsError):
    """A toolchain that is not installed. The message names the extra, or the command, that installs it."""

    def __init__(self, package: str, extra: str | None, command: str | None = None) -> None:
        what = "edge-assets"
        if extra:
            what = f"edge-assets[{extra}]"
        self.package, self.extra, self.command = package, extra, command
        self.remedy = command or f"pip install '{what}'"
        super().__init__(f"{package} is not installed: {self.remedy}")

    def __reduce__(self) -> tuple[type[MissingTool], tuple[str, str | None, str | None]]:
        return MissingTool, (self.package, self.extra, self.command)


class NothingReleasable(EdgeAssetsError):
    """No variant passed every gate. The message says what came closest."""


# --- what a message shows -------------------------------------------------------------------------------
#
# of any error, for a person: `told`. Of a library's error, inside of a sentence: `one_line`.
# Of a longer text: `shortened`. Of a value or a name from outside: `printable`. Of a process's log: `log_end`.


def told(error: BaseException) -> str:
    """What a person is shown of any error: its type, its telling lines, and the line of the user's own code.

    An error that was raised from another is told as that one: the wrappers of converters say less than what they wrap.
    """
    if isinstance(error, EdgeAssetsError):
        return shortened(str(error))
    cause = _explicit_cause(error)
    lines = shortened("\n".join(_telling_lines(cause)))
    kind = type(cause).__name__
    place = _users_line(cause) or _users_line(error)
    if not lines:
        return f"{kind}{place}"
    return f"{kind}: {lines}{place}"


def one_line(error: BaseException, limit: int = 200) -> str:
    """The first telling line of an error, else its type: of a file that is odd, more lines say no more."""
    lines = [*_telling_lines(error), type(error).__name__]
    return printable(lines[0].strip(), limit)


def shortened(text: str, limit: int = SHOWN) -> str:
    """`text` in printable characters and without credentials, cut at `limit` with a word that it was cut."""
    text = hide_credentials(CONTROL.sub("", text).strip())
    if len(text) <= limit:
        return text
    return f"{text[:limit].rstrip()} ..."


def printable(value: object, limit: int = 80) -> str:
    """Text from outside for a message: one line, no control characters or credentials, cut in its middle at `limit`."""
    text = value if isinstance(value, str) else reprlib.repr(value)
    text = hide_credentials(text)
    if len(text) > limit:
        half = limit // 2
        text = f"{text[:half]}...{text[-half:]}"
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def log_end(text: str, lines: int = 12) -> str:
    """What a message shows of a process's log: its end, or that there is none."""
    logged = text.strip().splitlines()
    if not logged:
        return "It logged nothing."
    heading = "Its log:"
    if len(logged) > lines:
        heading = "Its log ends:"
    return "\n".join([heading, *logged[-lines:]])


def _telling_lines(error: BaseException) -> list[str]:
    """The lines of an error's message that say what was wrong and what would help."""
    text = CONTROL.sub("", str(error).replace("\r", ""))
    lines = [line.rstrip() for line in text.strip().splitlines()]
    telling = []
    for line in _without_tracebacks(lines):
        if line.strip() and not SIDE_NOTES.search(line):
            telling.append(line)
    return telling


def _without_tracebacks(lines: list[str]) -> list[str]:
    """Some libraries put whole tracebacks into a message: what stands before them and the error that ends them stay."""
    before: list[str] = []
    ending: list[str] = []  # the error that ends the last traceback
    inside = False
    for line in lines:
        if TRACEBACK.search(line):
            inside, ending = True, []
        elif not inside:
            before.append(line)
        elif RAISED.match(line):
            ending = [line]
    return before + ending


def _explicit_cause(error: BaseException) -> BaseException:
    """The error at the end of the chain of `raise ... from`; of a child process's, the error that it raised."""
    seen = {id(error)}  # `raise error from error` makes a ring
    while error.__cause__ is not None and "RemoteTraceback" not in type(error.__cause__).__name__:
        if id(error.__cause__) in seen:
            break
        error = error.__cause__
        seen.add(id(error))
    return error


def _users_line(error: BaseException) -> str:
    """Where in the user's own code an error arose, in words; empty where none of it took part."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    if not own:
        return ""
    return f" ({own[-1].filename}, line {own[-1].lineno}, in {own[-1].name})"


def _is_users(filename: str) -> bool:
    path = Path(filename)
    if not path.is_file():
        return False
    return not any(path.is_relative_to(folder) for folder in _foreign_folders())


def _foreign_folders() -> Iterator[Path]:
    """Where code lies that is not the user's: the interpreter's, installed packages, this product."""
    for name in ("stdlib", "platstdlib", "purelib", "platlib"):
        yield Path(sysconfig.get_path(name))
    yield Path(sys.base_prefix) / "lib"
    yield PRODUCT
    yield PRODUCT.parent / "resources"
