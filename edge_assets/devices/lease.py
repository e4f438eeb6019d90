"""A device's turn to measure: one measurement at a time on it, whoever asks, from whichever machine and run."""

import getpass
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edge_assets.devices.connection import Connection
from edge_assets.devices.inventory import Device
from edge_assets.devices.readiness import Readiness, demand_room
from edge_assets.devices.session import Pulse
from edge_assets.errors import DeviceError, printable

AGAIN = 2.0  # seconds
PATIENCE = 3600.0  # seconds to wait for others


@contextmanager
def leased(device: Device, purpose: str, log: Callable[[str], None]) -> Iterator[Readiness]:
    """The device while nobody else measures on it. The kernel there frees the turn of an agent that ends.

    A wait is said once, with whom it waits for. Raises DeviceError where others have it for an hour, or it is full.
    """
    with Connection(device) as connection:
        _wait(connection, f"{getpass.getuser()}@{platform.node()}, {purpose}", log)
        connection.ask("bound")
        readiness = Readiness(connection, device.limits, log)
        demand_room(device, connection.hello)
        with Pulse(connection):
            yield readiness


def _wait(connection: Connection, by: str, log: Callable[[str], None]) -> None:
    began = time.monotonic()
    said = False
    while True:
        answer = connection.ask("lease", by=by)
        if answer["held"]:
            return
        holder = answer["by"]
        who = "a measurement of another account or of that machine itself"
        if isinstance(holder, dict):
            who = printable(str(holder.get("by")), 200)
        if time.monotonic() - began > PATIENCE:
            raise DeviceError(f"{connection.device.name} is measured by {who}, and was for an hour")
        if not said:
            log(f"waiting for {connection.device.name}, which is measured by {who}")
            said = True
        time.sleep(AGAIN)
