"""A board that is this machine, behind a real SSH server."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_assets.devices import reach
from edge_assets.devices.inventory import Device, Limits
from tests.devices.sshd import Sshd, sshd

BUSY = Limits(load=64)  # the tests themselves keep the cores busy


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("sshd")) as found:
        yield found


@pytest.fixture
def board(server: Sshd, tmp_path: Path) -> Device:
    reach.forget()
    return Device(
        name="board-1",
        target="bench-board",
        address=server.address,
        interpreter=sys.executable,
        folder=str(tmp_path / "on-device"),
        limits=BUSY,
        ssh_config=server.config,
    )
