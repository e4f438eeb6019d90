"""Errors that are the user's to fix. Each message says what was wrong, where, and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class EdgeAssetsError(Exception):
    """Base of every error whose message is meant for the user, shown without a traceback."""


class InvalidSpec(EdgeAssetsError):
    """A ModelSpec or a catalog entry is wrong. The message names the field and the reason."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field


class UnknownName(EdgeAssetsError):
    """A model, target or checkpoint that is not registered. The message offers the nearest names."""

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(known) or 'none'}."
        super().__init__(f"unknown {what} '{name}'. {hint}")


class CheckpointError(EdgeAssetsError):
    """A checkpoint that is missing, truncated, unsafe to read, or not this architecture's."""


class DataError(EdgeAssetsError):
    """Calibration or evaluation data that cannot give a trustworthy result."""


class ExportError(EdgeAssetsError):
    """A conversion that failed. The message names the operator and module where it can."""


class ConverterError(EdgeAssetsError):
    """A toolchain that crashed, hung or raised. The message carries the end of its log."""


class Refused(EdgeAssetsError):
    """A step that makes no sense for this graph. Its message is the reason, and nothing is built or verified."""


class StoreError(EdgeAssetsError):
    """The artifact store could not be read or written."""


class MissingTool(EdgeAssetsError):
    """A toolchain that is not installed. The message names the extra, or the command, that installs it."""

    def __init__(self, package: str, extra: str | None, command: str | None = None) -> None:
        what = f"edge-assets[{extra}]" if extra else "edge-assets"
        self.package, self.extra, self.command = package, extra, command
        self.remedy = command or f"pip install '{what}'"
        super().__init__(f"{package} is not installed: {self.remedy}")

    def __reduce__(self) -> tuple[type["MissingTool"], tuple[str, str | None, str | None]]:
        return MissingTool, (self.package, self.extra, self.command)


class NothingReleasable(EdgeAssetsError):
    """No variant passed every gate. The message says what came closest."""


def first_line(error: BaseException) -> str:
    """What an error of a library says first; the rest is often its log or a traceback of its own."""
    return str(error).strip().partition("\n")[0]
