"""`edge-assets emulator`: what can be emulated, what is installed, what was freed."""

from collections.abc import Iterable, Mapping

import click
from rich.table import Column, Table

from edge_assets.devices.emulators import INSTALL, State, cpus_of, folder_of, lacking, runs_here, state
from edge_assets.report.console import console
from edge_assets.targets import is_this_machine, project
from edge_assets.targets.emulation import EMULATABLE

MIB = 2**20


def print_emulators() -> None:
    """A line per CPU, then a line per installation with what it takes and holds."""
    place = console()
    table = Table("CPU", "state", Column("what it is", overflow="fold"), Column("for targets", overflow="fold"))
    states = [state(name) for name in EMULATABLE]
    for found in states:
        table.add_row(found.cpu.name, in_words(found), found.cpu.description, ", ".join(targets_of(found.cpu.name)))
    place.print(table)
    seen = set()
    for found in states:
        if found.record and found.cpu.installation not in seen:
            seen.add(found.cpu.installation)
            place.print(_contents(found), soft_wrap=True)
    if any(found.lack and runs_here(found.cpu) for found in states):
        place.print(f"install: {INSTALL}", soft_wrap=True)


def summary(wanted: Iterable[str]) -> str:
    """Which are installed, and what the targets that are wanted lack; or what installs all."""
    usable = [name for name in EMULATABLE if state(name).lack is None]
    if usable:
        lines = [f"emulated CPUs: {', '.join(usable)}", hint(wanted)]
        return "\n".join(line for line in lines if line)
    return f"no CPU is emulated, so that arithmetic is this machine's for every target: {INSTALL}"


def hint(names: Iterable[str]) -> str | None:
    """One line: of which targets the arithmetic could be emulated here, and what installs it; None: nothing lacks."""
    catalog = project.catalog()
    targets, cpus = [], set()
    for name in dict.fromkeys(names):
        target = catalog.get(name)
        if target is None or is_this_machine(target, catalog.values()):
            continue
        found = lacking(target)
        if found:
            targets.append(name)
            cpus.update(found)
    if not targets:
        return None
    return f"the arithmetic of {', '.join(targets)} can be emulated here: {INSTALL} {' '.join(sorted(cpus))}"


def in_words(found: State) -> str:
    """Whether a CPU can be used, in a table of rich."""
    if found.lack is None:
        return "[green]installed[/]"
    if not runs_here(found.cpu):
        return f"on {found.cpu.architecture} alone"
    return f"[yellow]{found.lack}[/]"


def targets_of(name: str) -> list[str]:
    """The targets that the CPU of that name stands in for."""
    return [target.name for target in project.catalog().values() if name in target.emulation]


def _contents(found: State) -> str:
    """One installation, which several CPUs share."""
    record = found.record
    assert record is not None
    parts = [f"qemu {record.qemu}"]
    if record.runtimes:
        parts.append(f"Python {record.python}")
    elif record.gcc:
        parts.append(f"gcc {record.gcc}")
    else:
        parts.append("this environment's Python")
    parts += [f"{name} {version}" for name, version in record.runtimes.items()]
    folder = folder_of(found.cpu.installation)
    return f"{found.cpu.installation}: {', '.join(parts)}; {record.size_bytes / MIB:.0f} MiB in {folder}"


def print_removed(freed: Mapping[str, int]) -> None:
    """What was freed, by installation."""
    if not freed:
        click.echo("no emulated CPU is installed")
    for installation, size in freed.items():
        gone = [cpu.name for cpu in cpus_of(installation)]
        click.echo(f"removed {', '.join(gone)}: {size / MIB:.0f} MiB")
