"""How much else a machine did during a measurement: the time that its processes waited for a core, and stolen time.

Linux says both; elsewhere nothing is known. Needs the standard library alone: devices hold a copy.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

WAITED = 0.05  # of the time: from here on others took part
STOLEN = 0.02


@dataclass(frozen=True)
class Load:
    """Counters at one moment, in seconds since some start. None: this machine has no such counter."""

    clock: float
    waited: float | None  # of all threads of this session's processes, ready to run while others ran
    stolen: float | None  # of the whole machine, by the host of a virtual one

    @classmethod
    def now(cls) -> Load:
        """The counters of this process's session: of all that a measuring process started."""
        return cls(time.perf_counter(), _waited(os.getsid(0)), _stolen())

    def since(self) -> dict[str, float | None]:
        """What happened since then, as shares of the time that went by."""
        later = Load.now()
        seconds = later.clock - self.clock
        return {
            "seconds": seconds,
            "waited": _share(self.waited, later.waited, seconds),
            "stolen": _share(self.stolen, later.stolen, seconds),
        }


def _share(before: float | None, after: float | None, seconds: float) -> float | None:
    if before is None or after is None or not seconds:
        return None
    return max(0.0, after - before) / seconds


def _waited(session: int) -> float | None:
    """Linux, Documentation/scheduler/sched-stats: the second number is the time spent waiting, in ns."""
    total = 0
    known = False
    for process in _processes():
        if _session(process) != session:
            continue
        for thread in _listed(process / "task"):
            try:
                total += int((thread / "schedstat").read_text().split()[1])
                known = True
            except (OSError, IndexError):
                continue  # ended meanwhile, or a kernel without these counters
    return total / 1e9 if known else None


def _stolen() -> float | None:
    """proc(5), /proc/stat: the eighth number of the first line, in clock ticks."""
    try:
        numbers = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        return int(numbers[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return None


def _processes() -> list[Path]:
    return [entry for entry in _listed(Path("/proc")) if entry.name.isdigit()]


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _session(process: Path) -> int | None:
    """proc(5): the fourth number after the command's name, which stands in brackets and may hold any."""
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        return int(fields[3])
    except (OSError, IndexError, ValueError):
        return None
