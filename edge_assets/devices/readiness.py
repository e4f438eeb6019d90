"""Whether a device may be measured now. A number from a hot or busy device is worth less than a number that is late."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from edge_assets.core.shapes import read
from edge_assets.core.sizes import readable_size
from edge_assets.devices.connection import Connection, Hello, Telemetry
from edge_assets.devices.inventory import Device, Limits
from edge_assets.errors import DeviceError, printable

LOOK_EVERY = 5.0  # seconds
COOLING = 900.0  # seconds for which a device may cool
QUIET = 120.0  # seconds for which others may be busy on it


def demand_room(device: Device, hello: Hello) -> None:
    """Raises DeviceError where the disk or the memory of the device is too full."""
    limits, free = device.limits, hello.telemetry.free_memory_bytes
    if hello.free_disk_bytes < limits.free_disk_bytes:
        raise DeviceError(
            f"{device.name} has {readable_size(hello.free_disk_bytes)} of free disk, below its limit of "
            f"{readable_size(limits.free_disk_bytes)}"
        )
    if free is not None and free < limits.free_memory_bytes:
        raise DeviceError(
            f"{device.name} has {readable_size(free)} of free memory, below its limit of "
            f"{readable_size(limits.free_memory_bytes)}"
        )


def demand_power(device: Device, hello: Hello) -> None:
    """Raises DeviceError where the entry names a sensor of power that cannot be read: energy would be missing."""
    if device.power is not None and hello.power_w is None:
        raise DeviceError(f"{device.name} has no number of microwatts in {printable(device.power)}: set `power`")


@dataclass(frozen=True)
class Readiness:
    """A device and what it has to keep to be measured."""

    connection: Connection
    limits: Limits
    log: Callable[[str], None]

    def awaited(self) -> float:
        """Wait until the device is cool and nobody else works on it. Returns the seconds that it took to cool.

        Raises DeviceError where it stays hot or busy.
        """
        began = time.monotonic()
        cooled = 0.0
        said = False
        while True:
            now = read(Telemetry, self.connection.ask("telemetry"))
            hot, busy = self._hot(now), self._busy(now)
            if not hot and not busy:
                return cooled
            waited = time.monotonic() - began
            patience = COOLING if hot else QUIET
            if waited > patience:
                raise DeviceError(f"{self.connection.device.name} is {hot or busy}, and was for {waited:.0f} s")
            if not said:
                self.log(f"{self.connection.device.name} is {hot or busy}: waiting")
                said = True
            time.sleep(LOOK_EVERY)
            if hot:
                cooled += LOOK_EVERY

    def _hot(self, now: Telemetry) -> str | None:
        if now.temperature_c is None or now.temperature_c <= self.limits.temperature_c:
            return None
        return f"at {now.temperature_c:.0f} °C, above its limit of {self.limits.temperature_c:.0f} °C"

    def _busy(self, now: Telemetry) -> str | None:
        if now.busy_cores is None or now.busy_cores <= self.limits.load:
            return None
        return f"busy with {now.busy_cores:.1f} cores of other work, above its limit of {self.limits.load:g}"
