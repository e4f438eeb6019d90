"""Dagster Pipes on a device: a script of yours runs there, and its logs, metadata and checks arrive in the run.

    @dg.asset
    def thermal_soak(context, board: PipesDeviceClient):
        return board.run(context=context, script=Path("soak.py")).get_materialize_result()

    defs = dg.Definitions([thermal_soak], resources={"board": PipesDeviceClient("kitchen-pi")})

The device needs Python alone: `dagster_pipes` is one file, and is sent beside the script.
"""

import json
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfile
from typing import IO, Any

import dagster as dg
import dagster_pipes
from dagster._core.definitions.resource_annotation import TreatAsResourceParam
from dagster._core.pipes.client import PipesClientCompletedInvocation, PipesMessageReader
from dagster._core.pipes.context import PipesMessageHandler
from dagster._core.pipes.utils import PipesEnvContextInjector, open_pipes_session

from edge_assets.core.types import Artifact, File
from edge_assets.devices import transport
from edge_assets.devices.connection import Connection
from edge_assets.devices.inventory import Device, devices
from edge_assets.devices.transfer import send_artifact
from edge_assets.errors import DeviceError
from edge_assets.hashing import sha256_of

MESSAGE = "__dagster_pipes_version"  # the key by which a line of JSON is one of Pipes


class PipesDeviceClient(dg.PipesClient, TreatAsResourceParam):
    """Runs scripts on the device of that name in the project's devices, over the same connection as measurements."""

    def __init__(self, device: str) -> None:
        self.name = device

    def run(  # type: ignore[override]  # the base leaves the arguments open
        self,
        *,
        context: dg.OpExecutionContext | dg.AssetExecutionContext,
        script: Path,
        arguments: Sequence[str] = (),
        extras: Mapping[str, Any] | None = None,
    ) -> PipesClientCompletedInvocation:
        """Send the script, run it, and report what it says. Raises DeviceError where it fails or the device is gone.

        What it prints comes to the log of the run; end of the connection ends it.
        """
        device = devices().device(self.name)
        reader = _StandardError()
        with open_pipes_session(context, PipesEnvContextInjector(), reader, extras=dict(extras or {})) as session:
            folder = _sent(device, script)
            variables = {**session.get_bootstrap_env_vars(), "PYTHONPATH": folder, "PYTHONUNBUFFERED": "1"}
            assignments = [f"{name}={value}" for name, value in variables.items()]
            command = _on(device, ["env", *assignments, device.interpreter, f"{folder}/{script.name}", *arguments])
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            reader.follow(process)
            for line in _lines(process.stdout):
                context.log.info(line)
            code = process.wait()
            reader.ended.wait(timeout=10)
            if code != 0:
                reason = transport.why_not(device, reader.said()) if code == 255 else reader.said().strip()
                raise DeviceError(f"{script.name} failed on {device.name} (exit {code}): {reason}")
        return PipesClientCompletedInvocation(session)


class _StandardError(PipesMessageReader):
    """Messages as lines of JSON on the script's standard error, among what else it writes there."""

    def __init__(self) -> None:
        self.handler: PipesMessageHandler | None = None
        self.other: list[str] = []
        self.ended = threading.Event()

    @contextmanager
    def read_messages(self, handler: PipesMessageHandler) -> Iterator[dict[str, str]]:
        self.handler = handler
        yield {"stdio": "stderr"}

    def no_messages_debug_text(self) -> str:
        return "Attempted to read messages from the standard error of a script on a device."

    def follow(self, process: subprocess.Popen[bytes]) -> None:
        """Read in a thread of its own until the script ends."""
        threading.Thread(target=self._read, args=[process.stderr], daemon=True).start()

    def said(self) -> str:
        """The end of what was no message."""
        return "\n".join(self.other[-20:])

    def _read(self, stream: IO[bytes]) -> None:
        assert self.handler is not None
        for line in _lines(stream):
            message = _message(line)
            if message is None:
                self.other.append(line)
            else:
                self.handler.handle_message(message)
        self.ended.set()


def _message(line: str) -> Any:
    """The message of a line; None where it is none."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and MESSAGE in found else None


def _lines(stream: IO[bytes] | None) -> Iterator[str]:
    assert stream is not None
    for line in stream:
        yield line.decode(errors="replace").rstrip("\n")


def _sent(device: Device, script: Path) -> str:
    """The folder on the device that has the script and dagster_pipes."""
    with tempfile.TemporaryDirectory() as scratch, Connection(device) as connection:
        folder = Path(scratch)
        copyfile(script, folder / script.name)
        copyfile(str(dagster_pipes.__file__), folder / "dagster_pipes.py")
        files = []
        for path in sorted(folder.iterdir()):
            files.append(File(path.name, sha256_of(path), path.stat().st_size))
        return send_artifact(connection, Artifact(tuple(files)), folder)


def _on(device: Device, command: list[str]) -> list[str]:
    """A command line that runs another on the device."""
    if device.kind == "ssh":
        return [*transport.ssh(device), transport.remote(command)]
    if device.kind == "local":
        return command
    raise DeviceError(f"{device.name} is {device.kind}: scripts run over SSH, or here")
