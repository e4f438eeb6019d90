"""What a build does now, how far it is, and about how long the rest takes."""

import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from edge_assets.cli.workers import Event, Said

Key = tuple[str, str]  # family and asset: what takes about as long on one target as on another


@dataclass
class Estimate:
    """Seconds that are left, from what the same assets took: in this build, else in an earlier one."""

    waiting: list[Key]
    at_once: int = 1  # how many are being built at the same time
    earlier: Mapping[Key, float] = field(default_factory=dict)
    seconds: dict[Key, float] = field(default_factory=dict)

    def done(self, asset: Key, seconds: float) -> None:
        """One asset is there; of several that took different times, as where it was reused, the longest counts."""
        self.seconds[asset] = max(seconds, self.seconds.get(asset, 0.0))
        if asset in self.waiting:
            self.waiting.remove(asset)

    def left(self) -> float | None:
        """About how long the waiting assets take; None while nothing is known of any asset."""
        known = {**self.earlier, **self.seconds}
        if not known:
            return None
        usual = statistics.mean(known.values())
        return sum(known.get(asset, usual) for asset in self.waiting) / self.at_once


class Display:
    """Lines above, and in a terminal a bar below: assets done of all, time so far and time left."""

    def __init__(self, console: Console, quiet: bool = False) -> None:
        self.console = console
        self.quiet = quiet
        self._estimate = Estimate([])
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=quiet or not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, left="", visible=False)

    def say(self, line: str) -> None:
        """One line, above the bar."""
        if not self.quiet:
            self._bar.console.print(line)

    @contextmanager
    def over(self, estimate: Estimate) -> Iterator[None]:
        """Show the bar while what waits in `estimate` is built."""
        self._estimate = estimate
        self._bar.reset(
            self._task,
            total=len(estimate.waiting),
            description="building",
            visible=True,
        )
        self._show()
        with self._bar:
            yield

    def hear(self, event: Event) -> None:
        """Show what a build tells."""
        if isinstance(event, Said):
            several = self._estimate.at_once > 1
            self.say(f"[cyan]{event.target:>16}[/] {event.line}" if several else event.line)
            return
        self._estimate.done((event.family, event.asset), event.seconds)
        self._bar.advance(self._task)
        self._show()

    def _show(self) -> None:
        self._bar.update(self._task, left=left_in_words(self._estimate.left()))


def left_in_words(seconds: float | None) -> str:
    """A coarse time: an estimate to the second would claim too much."""
    if seconds is None:
        return "estimating"
    if seconds < 45:
        return "less than a minute left"
    return f"about {round(seconds / 60) or 1} min left"
