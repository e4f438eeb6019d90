"""Who can say something of a target's artifacts besides this machine: its devices, and CPUs that stand in for it."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from edge_assets.core.shapes import read, record
from edge_assets.devices import emulators, microcontrollers
from edge_assets.devices.inventory import Device, devices
from edge_assets.devices.reach import asked, demand_match
from edge_assets.errors import DeviceError, Malformed
from edge_assets.hashing import digest
from edge_assets.pipeline.identity import Identity
from edge_assets.spec.tiers import Tier
from edge_assets.targets.emulation import MICROCONTROLLERS
from edge_assets.targets.machine import Machine
from resources.store import ArtifactStore

EMULATED_SAMPLES = 64  # evaluation samples: an emulated CPU takes a quarter of a second for what takes a millisecond
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Observer:
    """A device or an emulated CPU, as far as it decides what comes of running an artifact on it."""

    device: Device
    machine: Machine
    versions: Mapping[str, str]  # of Python and the runtimes there
    tier: Tier
    samples: int | None  # of the evaluation set; None: all
    is_here: bool  # whether it can be asked now

    @property
    def by(self) -> str:
        """In words."""
        if self.tier == "emulated":
            return self.machine.cpu
        hardware = ", ".join([*self.machine.gpus, self.machine.cpu, f"{self.machine.cores} cores"])
        return f"{self.device.name} ({hardware})"

    @property
    def microcontroller(self) -> str | None:
        """The name of the emulated microcontroller that it is; None: it is none."""
        name = self.device.emulator
        return name if name in MICROCONTROLLERS else None

    def parameters(self) -> dict[str, object]:
        """What of it enters recipes: two equal boards give equal results."""
        machine = self.machine
        hardware = [machine.cpu, machine.architecture, machine.instruction_sets, machine.board, *machine.gpus]
        found: dict[str, object] = {"tier": self.tier, "hardware": digest(hardware), "versions": dict(self.versions)}
        if self.microcontroller:
            found["c_code"] = microcontrollers.VERSION
        return found


@dataclass(frozen=True)
class Observers:
    """Of one target. `absent` says why devices cannot be asked, by name."""

    found: tuple[Observer, ...]
    absent: Mapping[str, str]

    @property
    def timed(self) -> Observer | None:
        """The device whose clock counts: the first that is here, else the first that is known."""
        clocks = [observer for observer in self.found if observer.device.is_timed]
        here = [observer for observer in clocks if observer.is_here]
        return next(iter([*here, *clocks]), None)


def observers(cell: Identity) -> Observers:
    """Who can be asked of this cell's target, or could be once."""
    found: list[Observer] = []
    absent: dict[str, str] = {}
    for device in devices().of(cell.target.name):
        if device.kind == "browser":
            continue  # it comes by itself: edge-assets devices browser
        if device.kind == "emulated":
            found += _emulated(device)
            continue
        known, is_here = None, True
        try:
            hello = asked(device).demanded()
            demand_match(device, hello, cell.target)
            known = Fingerprint(machine=hello.machine, versions=hello.versions)
            remember(cell.store, device, known)
        except DeviceError as error:
            absent[device.name] = str(error)
            known, is_here = remembered(cell.store, device), False
        if known is not None:
            found.append(Observer(device, known.machine, known.versions, "device", device.samples, is_here))
    if not cell.is_local:
        named = {device.emulator for device in devices().of(cell.target.name)}
        for name in cell.target.emulation:
            if name in named:
                continue  # the project's own entry says how many samples
            stand_in = Device(name=name, target=cell.target.name, address="emulated", emulator=name)
            found += _emulated(stand_in)
    return Observers(tuple(found), absent)


def not_emulated(cell: Identity) -> str | None:
    """What would show the target's arithmetic though no device is at hand, and the command for it; None: nothing."""
    if cell.is_local:
        return None
    lacking = emulators.lacking(cell.target)
    if not lacking:
        return None
    return f"its instruction set can be emulated here: {emulators.INSTALL} {' '.join(lacking)}"


def _emulated(device: Device) -> Iterator[Observer]:
    """The emulated CPU, if it is installed."""
    assert device.emulator is not None
    if emulators.state(device.emulator).lack:
        return
    samples = device.samples or EMULATED_SAMPLES
    if device.emulator in MICROCONTROLLERS:
        record = emulators.state(device.emulator).record
        assert record is not None
        machine = microcontrollers.machine(MICROCONTROLLERS[device.emulator], record)
        yield Observer(device, machine, microcontrollers.versions(record), "emulated", samples, True)
        return
    emulator = emulators.installed(device.emulator)
    versions = {"qemu": emulator.record.qemu, **(emulator.record.runtimes or emulators.runtimes_here())}
    yield Observer(device, emulator.machine(), versions, "emulated", samples, True)


# --- what devices said ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What stays the same of a device."""

    machine: Machine
    versions: Mapping[str, str]


def remember(store: ArtifactStore, device: Device, known: Fingerprint) -> None:
    """Keep what a device is, so that its measurements apply while it is away."""
    said = record(known)
    if store.pointers.get(_key(device)) != said:
        store.pointers.hint(_key(device), said)


def remembered(store: ArtifactStore, device: Device) -> Fingerprint | None:
    """What a device was when it was asked last; None where it never was."""
    kept = store.pointers.get(_key(device))
    if kept is None:
        return None
    try:
        return read(Fingerprint, kept)
    except Malformed as error:
        log.warning("what is known of device %s is taken as unknown: %s", device.name, error)
        return None


def _key(device: Device) -> str:
    return f"devices/{device.name}"
