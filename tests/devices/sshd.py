"""A real SSH server on loopback, with its own host key and one user's key, and a client configuration that knows it."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_assets.core.benchmark.turns import lock_file

SERVER = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized
PidFile {folder}/pid
UsePAM no
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
ClientAliveInterval 5
SetEnv EDGE_ASSETS_AGENT_HOME={folder}/agent EDGE_ASSETS_MEASURING_LOCK={lock}
"""
CLIENT = """
Host 127.0.0.1
  IdentityFile {folder}/user
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known
  GlobalKnownHostsFile /dev/null
"""


@dataclass
class Sshd:
    """The server, and where its files are."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        """As devices.yaml has it."""
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"

    @property
    def config(self) -> str:
        """The client's configuration."""
        return str(self.folder / "client")

    def new_host_key(self) -> None:
        """Another host key, as after an installation; the client still knows the old one."""
        self.stop()
        for name in ("host", "host.pub"):
            (self.folder / name).unlink()
        _key(self.folder / "host")
        self.process = _start(self.folder, self.port)

    def stop(self) -> None:
        """End the server and its sessions."""
        subprocess.run(["pkill", "-9", "-P", str(self.process.pid)], check=False)
        self.process.kill()
        self.process.wait()


@contextmanager
def sshd(folder: Path) -> Iterator[Sshd]:
    """The server; skips where OpenSSH is not installed."""
    if not shutil.which("ssh") or not _program():
        pytest.skip("OpenSSH is not installed: apt-get install openssh-server openssh-client")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name in ("host", "user"):
        _key(folder / name)
    shutil.copyfile(folder / "user.pub", folder / "authorized")
    (folder / "server").write_text(SERVER.format(port=port, folder=folder, lock=lock_file()))
    (folder / "client").write_text(CLIENT.format(folder=folder))
    kind, public, *_ = (folder / "host.pub").read_text().split()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {kind} {public}\n")
    server = Sshd(folder, port, _start(folder, port))
    try:
        yield server
    finally:
        server.stop()


def _program() -> str | None:
    return shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")


def _key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def _start(folder: Path, port: int) -> subprocess.Popen[bytes]:
    program = _program()
    assert program
    log = (folder / "log").open("wb")
    process = subprocess.Popen([program, "-D", "-e", "-f", str(folder / "server")], stderr=log)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.05)
    raise AssertionError((folder / "log").read_text())
