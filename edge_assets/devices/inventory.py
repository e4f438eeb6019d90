"""The devices of a project, as data: its devices.yaml, checked. It holds no secrets: SSH has its own.

kitchen-pi:
target: raspberry-pi-5
address: ssh://pi@kitchen.local
interpreter: /home/pi/venv/bin/python
limits: {temperature: 70, load: 0.5, free_memory: 256 MiB, free_disk: 512 MiB}
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import Field, ValidationError

from edge_assets.errors import InvalidSpec, UnknownName, one_line, printable
from edge_assets.spec.project import project_path, project_settings
from edge_assets.spec.validation import faults_of, invalid
from edge_assets.targets.catalog import NAME, Catalog, Entry, Size, Target, Text, entries_of, problem_of
from edge_assets.targets.emulation import EMULATABLE, Microcontroller
from edge_assets.targets.project import project_catalog

Kind = Literal["ssh", "local", "browser", "emulated"]
SECRETS = re.compile(r"pass(word|phrase)?|secret|token|(private_?)?key|credentials?", re.IGNORECASE)
USER_AND_HOST = re.compile(r"[A-Za-z0-9_.-]+")
FOLDER = "~/.cache/edge-assets-agent"
MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Beyond which a device is not measured."""

    temperature_c: float = 75.0
    load: float = 0.5  # cores that do something else
    free_memory_bytes: int = 128 * MIB
    free_disk_bytes: int = 256 * MIB


@dataclass(frozen=True)
class Device:
    """One piece of hardware, or what stands for it, and how it is reached."""

    name: str
    target: str
    address: str  # ssh://user@host:port, local, browser or emulated
    interpreter: str = "python3"
    folder: str = FOLDER  # on the device: the agent and what it was sent
    limits: Limits = Limits()
    power: str | None = None  # a file on the device that holds its power in microwatts
    sensors: str = "/"  # below which the device shows sys and proc
    samples: int | None = None  # evaluation samples that are run there; None: all
    emulator: str | None = None  # which emulated CPU, where the address is `emulated`
    ssh_config: str | None = None  # a configuration file besides the user's own

    @property
    def kind(self) -> Kind:
        """How it is reached."""
        if self.address.startswith("ssh://"):
            return "ssh"
        return self.address  # type: ignore[return-value]  # the others are their own names

    @property
    def is_timed(self) -> bool:
        """Whether its clock says something of the target."""
        return self.kind != "emulated"


@dataclass(frozen=True)
class Inventory:
    """Every device that could be read, and why others could not."""

    devices: Mapping[str, Device] = field(default_factory=dict)
    broken: Mapping[str, InvalidSpec] = field(default_factory=dict)  # by name

    def device(self, name: str) -> Device:
        """The device of that name. Raises InvalidSpec where its entry is wrong, UnknownName with the nearest names."""
        if name in self.broken:
            raise self.broken[name]
        if name not in self.devices:
            raise UnknownName("device", name, self.devices)
        return self.devices[name]

    def of(self, target: str) -> list[Device]:
        """Devices that are of a target, in the order of the file."""
        return [device for device in self.devices.values() if device.target == target]


class LimitsEntry(Entry):
    """Beyond which a device is not measured."""

    temperature: Annotated[float, Field(strict=False, gt=0, le=150)] = Field(default=75.0, description="in Celsius")
    load: Annotated[float, Field(strict=False, ge=0)] = Field(
        default=0.5,
        description="cores that do something else",
    )
    free_memory: Size = Field(default=128 * MIB, validate_default=False, description="such as 256 MiB")
    free_disk: Size = Field(default=256 * MIB, validate_default=False, description="such as 512 MiB")


class DeviceEntry(Entry):
    """One device: how it is reached, and as what."""

    target: Text = Field(description="which target it is")
    address: Text = Field(description="ssh://user@host:port, local, browser or emulated")
    interpreter: Text = Field(default="python3", description="Python 3.9 or later with NumPy and the runtime")
    folder: Text = Field(default=FOLDER, description="on the device, for the agent and what it is sent")
    limits: LimitsEntry = Field(default_factory=LimitsEntry)
    power: Text | None = Field(default=None, description="a file on the device with its power in microwatts")
    sensors: Text = Field(default="/", description="below which the device shows sys and proc, where that is not /")
    samples: Annotated[int, Field(ge=8)] | None = Field(default=None, description="evaluation samples; default: all")
    emulator: Text | None = Field(default=None, description="the emulated CPU, where the address is emulated")
    ssh_config: Text | None = Field(default=None, description="a configuration file for SSH besides the user's own")


def devices() -> Inventory:
    """The devices of the project: `[tool.edge_assets] devices`, or the file that EDGE_ASSETS_DEVICES names."""
    given = os.environ.get("EDGE_ASSETS_DEVICES")
    files = [Path(given)] if given else [project_path(name) for name in project_settings().get("devices", [])]
    return load_devices(*files)


@cache
def load_devices(*files: Path) -> Inventory:
    """Devices by name. Raises InvalidSpec for a file that cannot be read."""
    found: dict[str, Device] = {}
    broken: dict[str, InvalidSpec] = {}
    catalog = project_catalog()
    for path in files:
        try:
            entries = list(entries_of(path))
        except yaml.YAMLError as error:
            raise InvalidSpec(f"devices {path}", f"cannot be read: {problem_of(error)}") from None
        except OSError as error:  # whose own text has the path once more
            reason = error.strerror or one_line(error, 300)
            raise InvalidSpec(f"devices {path}", f"cannot be read: {reason}") from None
        except (ValueError, RecursionError) as error:
            raise InvalidSpec(f"devices {path}", f"cannot be read: {one_line(error, 300)}") from None
        for name, entry in entries:
            try:
                if name in found or name in broken:
                    raise InvalidSpec(
                        f"devices {path}",
                        f"device '{printable(name)}' is already defined: give one of them another name",
                    )
                if isinstance(entry, yaml.YAMLError):
                    raise InvalidSpec(f"device {printable(name)}", problem_of(entry))
                device = parse_device(name, entry, catalog)
                found[device.name] = device
            except InvalidSpec as error:
                broken[str(name)] = error
    return Inventory(found, broken)


def parse_device(name: object, entry: object, catalog: Catalog) -> Device:
    """One entry. Raises InvalidSpec with the field and the reason."""
    where = f"device {printable(name)}"
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InvalidSpec(where, "the name must be lower-case letters, digits, '.' and '-', and no more than 63")
    if not isinstance(entry, Mapping):
        raise InvalidSpec(where, f"must be a mapping of fields, not {printable(entry)}")
    for key in entry:
        if SECRETS.fullmatch(str(key)):
            raise InvalidSpec(
                f"{where}.{printable(key)}",
                "no secret belongs into this file: SSH takes keys from its agent and its own configuration",
            )
    try:
        form = DeviceEntry.model_validate(dict(entry))
    except ValidationError as error:
        raise invalid(faults_of(error, where, form=DeviceEntry)) from None
    try:
        target = catalog.target(form.target)
    except UnknownName as error:
        raise InvalidSpec(f"{where}.target", str(error)) from None
    _check_address(where, form)
    _check_emulator(where, form, target)
    limits = form.limits
    return Device(
        name=name,
        target=target.name,
        address=form.address,
        interpreter=form.interpreter,
        folder=form.folder,
        limits=Limits(limits.temperature, limits.load, limits.free_memory, limits.free_disk),
        power=form.power,
        sensors=form.sensors,
        samples=form.samples,
        emulator=form.emulator,
        ssh_config=form.ssh_config,
    )


def _check_emulator(where: str, form: DeviceEntry, target: Target) -> None:
    """Raises InvalidSpec for an emulated CPU that there is not, that runs no Python, or is of another architecture."""
    if form.emulator is None:
        return
    field_name = f"{where}.emulator"
    cpu = EMULATABLE.get(form.emulator)
    if cpu is None:
        raise InvalidSpec(field_name, str(UnknownName("emulated CPU", form.emulator, EMULATABLE)))
    if isinstance(cpu, Microcontroller):
        raise InvalidSpec(
            field_name,
            f"{cpu.name} runs no Python, so it is no device: a target that names it in `emulation` is verified on it",
        )
    if target.architecture not in (cpu.architecture, "any"):
        others = f"{cpu.architecture}, {target.name} of {printable(target.architecture)}"
        raise InvalidSpec(field_name, f"{cpu.name} is a CPU of {others}")


def _check_address(where: str, form: DeviceEntry) -> None:
    """Raises InvalidSpec for an address that is none, or has a password in it."""
    field_name = f"{where}.address"
    if (form.address == "emulated") != (form.emulator is not None):
        raise InvalidSpec(f"{where}.emulator", "names the emulated CPU, where the address is emulated and only there")
    if form.address in ("local", "browser", "emulated"):
        return
    scheme, found, _ = form.address.partition("://")
    if not found or scheme != "ssh":
        raise InvalidSpec(
            field_name, f"'{printable(form.address)}' is none of ssh://user@host:port, local, browser and emulated"
        )
    try:
        parts = urlsplit(form.address)
        host, port, user = parts.hostname, parts.port, parts.username
    except ValueError as error:
        raise InvalidSpec(field_name, f"is no address: {error}") from None
    if parts.password is not None:
        raise InvalidSpec(field_name, "has a password in it: let SSH log in with a key from its agent instead")
    del port  # it was one
    names = [name for name in (host, user) if name]
    is_plain = all(USER_AND_HOST.fullmatch(name) and not name.startswith("-") for name in names)
    if not host or not is_plain or parts.path.strip("/") or parts.query or parts.fragment:
        raise InvalidSpec(field_name, f"'{printable(form.address)}' is not of the form ssh://user@host:port")
