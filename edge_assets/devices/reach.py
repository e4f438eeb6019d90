"""Which devices can be reached now, and whether they are what they claim to be."""

import time
from dataclasses import dataclass

from edge_assets.devices.connection import Connection, Hello
from edge_assets.devices.inventory import Device
from edge_assets.errors import DeviceError, EdgeAssetsError
from edge_assets.targets import Target
from edge_assets.targets.machine import Machine

KEPT = 60.0  # seconds for which an answer counts, so that a plan of many cells asks once
_answers: dict[Device, tuple[float, "Answer"]] = {}


@dataclass(frozen=True)
class Answer:
    """What a device said, or why it did not."""

    device: Device
    hello: Hello | None
    reason: str | None  # why there is none

    def demanded(self) -> Hello:
        """What it said. Raises DeviceError."""
        if self.hello is None:
            raise DeviceError(self.reason or f"{self.device.name} cannot be reached")
        return self.hello


def asked(device: Device, anew: bool = False) -> Answer:
    """What a device says of itself, at most a minute ago."""
    when, answer = _answers.get(device, (float("-inf"), None))
    if answer is not None and not anew and time.monotonic() - when < KEPT:
        return answer
    answer = _ask(device)
    _answers[device] = time.monotonic(), answer
    return answer


def forget() -> None:
    """Ask every device anew."""
    _answers.clear()


def _ask(device: Device) -> Answer:
    try:
        with Connection(device) as connection:
            return Answer(device, connection.hello, None)
    except EdgeAssetsError as error:
        return Answer(device, None, str(error))


def demand_match(device: Device, hello: Hello, target: Target) -> None:
    """Raises DeviceError, saying what differs, where the machine is not the target that the device claims to be."""
    if hello.machine.matches(target):
        return
    differing = "; ".join(differences(hello.machine, target))
    raise DeviceError(f"{device.name} is no {target.name}: {differing}. Nothing is measured on it")


def differences(machine: Machine, target: Target) -> list[str]:
    """How a machine differs from a target, in words."""
    wanted = target.match
    if wanted.is_empty:
        return [f"the target {target.name} has no `match`, so no machine is one"]
    found = []
    if target.architecture not in (machine.architecture, "any"):
        found.append(f"its architecture is {machine.architecture}, not {target.architecture}")
    if wanted.board is not None and wanted.board not in (machine.board or ""):
        found.append(f"its board is {machine.board or 'unknown'}, not {wanted.board}")
    if wanted.system is not None and not machine.system.startswith(wanted.system):
        found.append(f"its system is {machine.system}, not {wanted.system}")
    if wanted.gpu is not None:
        found.append(f"its GPUs are {', '.join(machine.gpus) or 'none'}, and a {wanted.gpu} is wanted")
    have = set(machine.instruction_sets)
    for either in wanted.instruction_sets:
        if not have & set(either.split("|")):
            found.append(f"it has no {either.replace('|', ' or ')}")
    for name in sorted(have & set(wanted.without)):
        found.append(f"it has {name}")
    return found
