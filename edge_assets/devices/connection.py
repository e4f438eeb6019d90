"""One agent that runs on a device: what it is asked, and what becomes of a connection that breaks."""

from __future__ import annotations

import subprocess
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Self

from edge_assets.core.shapes import read
from edge_assets.devices import packing, transport
from edge_assets.devices.agent.wire import BrokenWire, Message, packed, receive, send, unpacked
from edge_assets.devices.inventory import Device
from edge_assets.errors import DeviceError, Refused, printable
from edge_assets.later import np
from edge_assets.targets.machine import Machine

PATIENCE = 600  # seconds for an answer, besides those that the request itself asks for
START = 60  # seconds until an agent answers for the first time; emulated ones get ten times as long
GOODBYE = 5  # seconds


@dataclass(frozen=True, kw_only=True)
class Telemetry:
    """How a device is at a moment. What it does not say is None."""

    temperature_c: float | None  # of its hottest part
    frequency_mhz: float | None  # of its slowest core
    throttled: bool | None
    throttle_events: int | None  # since it was started
    busy_cores: float | None  # cores that did something else
    free_memory_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Hello:
    """What a device says of itself."""

    protocol: int
    version: str
    machine: Machine
    versions: Mapping[str, str]  # of Python, NumPy and the runtimes
    clock: float  # seconds since 1970, by its own clock
    free_disk_bytes: int
    telemetry: Telemetry
    power_w: float | None  # by the sensor that its entry names


class AgentError(Exception):
    """What an agent answers where a request failed: the device is there, the request was the matter."""


class Connection:
    """An agent on a device, started; ended by `close`, by which everything of it ends there too.

    Raises DeviceError where it cannot be started.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the connection
        self.process = subprocess.Popen(
            transport.command(device),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            start_new_session=True,
        )
        self.is_hung = False
        self.turn = threading.Lock()  # of one request and its answer
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        """Send the agent where the device has it not, and see that it answers."""
        assert self.process.stdin and self.process.stdout
        agent = packing.packed()
        patience = START if self.device.is_timed else 10 * START
        with self._watched(patience):
            answer = self.process.stdout.readline()
            if answer == transport.NEED:
                try:
                    self.process.stdin.write(agent.content)
                    self.process.stdin.flush()
                except OSError:
                    pass  # it is gone: what it said is read below
            elif answer != transport.HAVE:
                raise self._gone(answer)
        self.hello = read(Hello, self.ask("hello", seconds=patience))

    def ask(self, command: str, **request: object) -> Message:
        """The answer to a request. Raises DeviceError, AgentError, Refused."""
        return self.exchange({"command": command, **request})[0]

    def exchange(self, request: Message, payload: bytes = b"") -> tuple[Message, bytes]:
        """The answer and its payload. `seconds` of a request are those that it asks for, of work.

        Raises DeviceError, AgentError, and Refused as the runtime there does.
        """
        assert self.process.stdin and self.process.stdout
        try:
            with self.turn, self._watched(PATIENCE + float(request.get("seconds", 0))):
                send(self.process.stdin, request, payload)
                came = receive(self.process.stdout)
        except BrokenWire as error:
            raise DeviceError(
                f"{self.device.name} answered what is no answer of an agent: {printable(str(error), 200)}"
            ) from None
        except OSError:
            came = None
        if came is None:
            raise self._gone(b"", f"during '{request['command']}'")
        answer, data = came
        if "error" in answer:
            if answer.get("refused"):
                raise Refused(str(answer["error"]))
            raise AgentError(str(answer["error"]))
        answer.pop("payload", None)
        return answer, data

    def run(self, feeds: Mapping[str, np.ndarray], one: bool = False) -> dict[str, np.ndarray]:
        """Outputs of the loaded model."""
        _, data = self.exchange({"command": "run", "one": one}, packed(dict(feeds)))
        return unpacked(data)

    def close(self) -> None:
        """End the agent: its input ends, and with it everything that it started."""
        if self.process.stdin and not self.process.stdin.closed:
            try:
                self.process.stdin.close()
            except OSError:
                pass  # it is gone, with a request in the pipe
        try:
            self.process.wait(timeout=GOODBYE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
        self.errors.close()

    def _watched(self, seconds: float) -> _Watch:
        return _Watch(self, seconds)

    def said(self) -> str:
        """What was written to the standard error."""
        self.errors.flush()
        position = self.errors.seek(0, 2)
        self.errors.seek(max(0, position - 20000))
        return self.errors.read().decode(errors="replace")

    def _gone(self, answer: bytes, when: str = "") -> DeviceError:
        """Why nothing came."""
        if self.is_hung:
            return DeviceError(f"{self.device.name} did not answer in time {when}".rstrip())
        try:
            code = self.process.wait(timeout=GOODBYE)
        except subprocess.TimeoutExpired:
            text = printable(answer.decode(errors="replace"), 200)
            return DeviceError(f"{self.device.name} sent what is no answer of an agent: {text}")
        if when and code in (-9, 137):
            return DeviceError(f"{self.device.name} went away {when}: its agent was killed")
        reason = transport.why_not(self.device, self.said())
        if when:
            return DeviceError(f"{self.device.name} went away {when}: {reason}")
        return DeviceError(f"{self.device.name} cannot be reached: {reason}")


class _Watch:
    """Ends a connection that does not answer in time."""

    def __init__(self, connection: Connection, seconds: float) -> None:
        self.connection = connection
        self.timer = threading.Timer(seconds, self._give_up)
        self.timer.daemon = True

    def __enter__(self) -> None:
        self.timer.start()

    def __exit__(self, *_error: object) -> None:
        self.timer.cancel()

    def _give_up(self) -> None:
        self.connection.is_hung = True
        self.connection.process.kill()
