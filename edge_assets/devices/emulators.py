"""Emulated CPUs: Python, with the runtimes of this environment, on instruction sets that this machine does not have.

One folder per installation (an architecture, or all microcontrollers), below the state folder's cache: qemu, for ARM a
Python and the runtimes as wheels for ARM, and per CPU a root in which qemu looks first for what a program opens, with a
/proc/cpuinfo of its own. What they compute counts; how long they take never.

Microcontrollers are installed here too, and run no Python but networks as C: `microcontrollers` says how.
"""

import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import distribution
from pathlib import Path

from filelock import FileLock

from edge_assets.core import shapes
from edge_assets.core.tools import version
from edge_assets.errors import EdgeAssetsError, Malformed, MissingTool, UnknownName
from edge_assets.settings import home
from edge_assets.targets.catalog import Target
from edge_assets.targets.emulation import EMULATABLE, Emulatable, EmulatedCpu, Microcontroller
from edge_assets.targets.machine import ARCHITECTURES, Machine, this_machine, usable_cores
from resources import folders

INSTALL = "edge-assets emulator install"
RECORD = "emulator.json"
LAYOUT = 1  # of such a folder; one of another layout is as good as none
QEMU = "qemu"
SYSROOT = "sysroot"
SITE = "site"
CPUS = "cpus"
UNFINISHED = "new-"  # how names of folders begin that are being filled or emptied
# what the emulated Python has besides its standard library, in this environment's versions; some are optional here
RUNTIMES = ("numpy", "onnxruntime", "ai-edge-litert")


@dataclass(frozen=True)
class Record:
    """What was installed together."""

    layout: int
    qemu: str  # version
    python: str | None = None  # version, two numbers; None: there is none
    runtimes: Mapping[str, str] = field(default_factory=dict)  # versions; empty: the environment's own are used
    packages: Mapping[str, str] = field(default_factory=dict)  # Debian's, with versions
    size_bytes: int = 0
    gcc: str | None = None  # version, for microcontrollers

    def write(self, folder: Path) -> None:
        (folder / RECORD).write_text(json.dumps(shapes.record(self), indent=1, sort_keys=True))


@dataclass(frozen=True)
class Emulator:
    """One CPU that programs can be run on."""

    cpu: EmulatedCpu
    folder: Path  # of its installation
    record: Record

    @property
    def name(self) -> str:
        return self.cpu.name

    def command(self, *arguments: str) -> list[str]:
        """The command that runs Python on this CPU, with these arguments: a script, or `-c` and a program.

        The environment of who calls counts, but for what names packages and libraries of this machine.
        """
        root = self.folder / CPUS / self.name
        qemu = [str(self.folder / QEMU), "-cpu", self.cpu.qemu_model, "-L", str(root)]
        variables = ["PYTHONNOUSERSITE=1", "PYTHONDONTWRITEBYTECODE=1"]
        if self._is_of_this_environment:
            paths = {str(distribution(name).locate_file("")) for name in runtimes_here()}
            variables.append(f"PYTHONPATH={os.pathsep.join(sorted(paths))}")
            python = Path(sys.executable).resolve()  # a link in an environment names no real interpreter to qemu
            return ["env", *variables, *qemu, str(python), *arguments]
        variables.append(f"PYTHONPATH={self.folder / SITE}")
        # what names libraries for this machine's CPU
        foreign = ["-u", "PYTHONHOME", "-u", "LD_PRELOAD", "-u", "LD_LIBRARY_PATH"]
        python = root / "usr" / "bin" / f"python{self.record.python}"
        return ["env", *foreign, *variables, *qemu, str(python), *arguments]

    def machine(self) -> Machine:
        """What evidence says of who computed it. It is no target: a target's `emulation` says whom it stands in for."""
        return Machine(
            cpu=f"{self.cpu.cpu} (qemu {self.record.qemu})",
            architecture=self.cpu.architecture,
            cores=usable_cores(),
            instruction_sets=tuple(sorted(self.cpu.instruction_sets)),
            memory_bytes=this_machine().memory_bytes,
            system="Linux (emulated)",
            board=None,
            governor=None,
        )

    @property
    def _is_of_this_environment(self) -> bool:
        return not self.record.runtimes


@dataclass(frozen=True)
class State:
    """Whether a CPU is installed."""

    cpu: Emulatable
    record: Record | None  # None: not installed
    lack: str | None  # why it cannot be used; None: it can


# --- what is there ------------------------------------------------------------------------------------------


def installed(name: str) -> Emulator:
    """The emulated CPU of that name.

    Raises UnknownName, EdgeAssetsError for a microcontroller, which runs no Python, and MissingTool naming the command
    that installs it where it is not installed, or is with other versions of the runtimes than this environment's.
    """
    found = state(name)
    if isinstance(found.cpu, Microcontroller):
        raise EdgeAssetsError(
            f"{name} is a microcontroller and runs no Python: builds for a target that names it in `emulation` run "
            f"their networks on it, as C"
        )
    if found.record is None:
        raise MissingTool(f"the emulated CPU {name}", None, f"{INSTALL} {name}")
    if found.lack:
        raise MissingTool(f"the emulated CPU {name} of this environment ({found.lack})", None, f"{INSTALL} {name}")
    return Emulator(found.cpu, folder_of(found.cpu.installation), found.record)


def state(name: str) -> State:
    """Whether the CPU of that name is installed. Raises UnknownName."""
    cpu = known(name)
    record = read_record(folder_of(cpu.installation))
    if record is None:
        return State(cpu, None, "not installed")
    return State(cpu, record, difference(record))


def known(name: str) -> Emulatable:
    """The CPU of that name, installed or not. Raises UnknownName."""
    if name not in EMULATABLE:
        raise UnknownName("emulated CPU", name, EMULATABLE)
    return EMULATABLE[name]


def cpus_of(installation: str) -> list[Emulatable]:
    """All CPUs of an installation, such as `aarch64`: they come and go together."""
    return [cpu for cpu in EMULATABLE.values() if cpu.installation == installation]


def runs_here(cpu: Emulatable) -> bool:
    """Whether it can be installed on this machine: an x86 CPU runs this environment's own Python."""
    if isinstance(cpu, Microcontroller):
        return True
    return cpu.architecture == "aarch64" or cpu.architecture == this_architecture()


def lacking(target: Target) -> list[str]:
    """The CPUs that stand in for a target, can be emulated on this machine, and are not installed."""
    found = []
    for name in target.emulation:
        there = state(name)
        if there.lack and runs_here(there.cpu):
            found.append(name)
    return found


def this_architecture() -> str:
    """This machine's, as Linux calls it."""
    name = platform.machine().lower()
    return ARCHITECTURES.get(name, name)


def folder_of(installation: str) -> Path:
    """Where the CPUs of an installation are, or will be."""
    return home().emulators / installation


def read_record(folder: Path) -> Record | None:
    """What is installed in a folder; None where nothing is, or something of another layout."""
    try:
        record = shapes.read(Record, json.loads((folder / RECORD).read_text()))
    except (OSError, ValueError, Malformed):
        return None
    if record.layout != LAYOUT:
        return None
    return record


def difference(record: Record) -> str | None:
    """How the runtimes that were installed differ from this environment's; None where they do not."""
    if not record.runtimes:
        return None
    differing = []
    for name, here in runtimes_here().items():
        there = record.runtimes.get(name)
        if there is None:
            differing.append(f"it has no {name}")
        elif there != here:
            differing.append(f"it has {name} {there}, this environment {here}")
    return "; ".join(differing) or None


def runtimes_here() -> dict[str, str]:
    """This environment's versions of what the emulated Python gets."""
    found = {}
    for name in RUNTIMES:
        try:
            found[name] = version(name)
        except MissingTool:
            continue  # an optional one: no artifact of this environment needs it
    return found


# --- what is freed ------------------------------------------------------------------------------------------


def remove(names: Sequence[str] = ()) -> dict[str, int]:
    """Free the CPUs of these names, or all; those of one installation go together.

    Returns the bytes that were freed by installation. Raises UnknownName.
    """
    installations = set()
    for name in names or EMULATABLE:
        installations.add(known(name).installation)
    parent = home().emulators
    freed: dict[str, int] = {}
    if not parent.is_dir():
        return freed
    with changing(parent) as work:
        for installation in sorted(installations):
            folder = parent / installation
            if folder.is_dir():
                freed[installation] = folders.size_of(folder)
                folder.rename(work / installation)
    return freed


@contextmanager
def changing(parent: Path) -> Iterator[Path]:
    """A private folder in `parent`, gone afterwards, for who installs or removes: one at a time.

    What a killed one left is gone as well.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with FileLock(parent / ".lock"):
        folders.sweep(parent, UNFINISHED)
        with folders.private_folder(parent, UNFINISHED) as work:
            yield work
