"""Which target this machine is, and what it is made of.

A latency is only ever shown as a target's when it was measured on a machine that matches that target. Needs the
standard library alone: devices hold a copy, and say by it what they are.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self

    from edge_assets.targets.catalog import Match, Target

# ARM reports part numbers instead of names: /proc/cpuinfo "CPU part" (Arm, Main ID Register)
ARM_PARTS = {
    "0xd08": "Cortex-A72",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse N1",
    "0xd40": "Neoverse V1",
    "0xd4f": "Neoverse V2",
}
ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}  # as macOS and Windows call them
ANY = "any"  # architecture of a target that runs beside every CPU: a GPU, a browser


@dataclass(frozen=True)
class BrowserCommands:
    """What starts a browser, and what it needs beside it."""

    commands: tuple[str, ...]  # any of these
    packages: str  # Debian's, which bring all that is needed
    beside: tuple[str, ...] = ()  # commands, all of them


# by the name that a target asks for
BROWSERS: Mapping[str, BrowserCommands] = {
    "chromium": BrowserCommands(("chromium", "google-chrome", "chrome"), "chromium"),
    "firefox": BrowserCommands(("firefox-esr", "firefox"), "firefox-esr"),
    # WebKitGTK: its driver starts MiniBrowser, which has no headless mode
    "webkit": BrowserCommands(
        ("WebKitWebDriver",),
        "webkit2gtk-driver xvfb xauth dbus-daemon",
        beside=("xvfb-run", "xauth", "dbus-run-session"),
    ),
}


@dataclass(frozen=True)
class Machine:
    """What a measurement has to say about where it was taken."""

    cpu: str
    architecture: str
    cores: int  # usable by this process
    instruction_sets: tuple[str, ...]
    memory_bytes: int
    system: str
    board: str | None
    governor: str | None  # None: not readable here
    gpus: tuple[str, ...] = ()  # NVIDIA GPUs, by the driver's names

    def to_dict(self) -> dict[str, object]:
        return asdict(self)

    def published(self) -> Self:
        """What who reads a number of this machine's needs to know: without the release of its kernel."""
        return replace(self, system=self.system.partition(" ")[0])

    def matches(self, target: Target) -> bool:
        """Whether this machine is that target."""
        wanted = target.match
        if wanted.is_empty or target.architecture not in (self.architecture, ANY):
            return False
        if wanted.board is not None and wanted.board not in (self.board or ""):
            return False
        if wanted.system is not None and not self.system.startswith(wanted.system):
            return False
        if wanted.gpu is not None and not self._has_gpu(wanted.gpu):
            return False
        if wanted.browser is not None and browser(wanted.browser) is None:
            return False
        return self._computes(wanted)

    def _has_gpu(self, name: str) -> bool:
        """Whether a GPU has that name as a whole word: L4 is not in L40S."""
        return any(re.search(rf"\b{name}\b", gpu) for gpu in self.gpus)

    def _computes(self, wanted: Match) -> bool:
        """Whether it has one of each alternative of instruction sets, and none of those excluded."""
        have = set(self.instruction_sets)
        if have & set(wanted.without):
            return False
        return all(have & set(either.split("|")) for either in wanted.instruction_sets)


@cache
def this_machine() -> Machine:
    """The machine this process runs on. Instruction sets are read on Linux; elsewhere they are unknown."""
    lines = _read("/proc/cpuinfo") or ""
    architecture = platform.machine().lower()
    return Machine(
        cpu=_cpu(lines),
        architecture=ARCHITECTURES.get(architecture, architecture),
        cores=usable_cores(),
        instruction_sets=_instruction_sets(lines),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.release()}",
        board=(_read("/proc/device-tree/model") or "").strip("\0\n") or None,
        governor=(_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "").strip() or None,
        gpus=gpus(),
    )


def _cpu(lines: str) -> str:
    """The processor's name, by the lines of /proc/cpuinfo where there are any."""
    name = re.search(r"^model name\s*:\s*(.*)$", lines, re.MULTILINE)
    if name:
        return name[1].strip()
    part = re.search(r"^CPU part\s*:\s*(\S+)", lines, re.MULTILINE)
    if part:
        return ARM_PARTS.get(part[1], f"ARM part {part[1]}")
    return platform.processor() or "unknown"


def _instruction_sets(lines: str) -> tuple[str, ...]:
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", lines, re.MULTILINE)
    if flags is None:
        return ()
    return tuple(sorted(flags[1].split()))


def usable_cores() -> int:
    """Cores that this process may use now; `Machine.cores` is what it might when it first looked."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def local_target(targets: Iterable[Target], family: str, machine: Machine | None = None) -> Target | None:
    """The target of `family` that this machine is: the most specific match, or None.

    Where browsers are targets a machine is one of each that is installed: see `is_this_machine`.
    """
    machine = machine or this_machine()
    matching = []
    for target in targets:
        if target.family == family and target.device == "local" and machine.matches(target):
            matching.append(target)
    return max(matching, key=_specificity, default=None)


def is_this_machine(target: Target, targets: Iterable[Target]) -> bool:
    """Whether a target is the one of its family, and of its browser, that this machine is."""
    rivals = [other for other in targets if other.match.browser == target.match.browser]
    found = local_target(rivals, target.family)
    return found is not None and found.name == target.name


def _specificity(target: Target) -> int:
    return len(target.match.instruction_sets) + bool(target.match.board)


@cache
def gpus() -> tuple[str, ...]:
    """Names of the NVIDIA GPUs that the driver lists, such as "NVIDIA H100 80GB HBM3"."""
    return _listed("name")


@cache
def nvidia_driver() -> str | None:
    """The release of NVIDIA's driver, such as "570.86.15"; None where there is none."""
    return next(iter(_listed("driver_version")), None)


def _listed(field: str) -> tuple[str, ...]:
    """What `nvidia-smi` says of each GPU; nothing where there is none."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return ()
    listing = [command, f"--query-gpu={field}", "--format=csv,noheader"]
    found = subprocess.run(listing, capture_output=True, text=True, check=False, timeout=30)
    if found.returncode != 0:
        return ()
    return tuple(line.strip() for line in found.stdout.splitlines() if line.strip())


def browser(name: str) -> str | None:
    """Path of the command of a browser that is installed with all that it needs, or None."""
    known = BROWSERS[name]
    for command in known.beside:
        if shutil.which(command) is None:
            return None
    for command in known.commands:
        path = shutil.which(command)
        if path:
            return path
    return None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text()
    except OSError:
        return None
