"""Artifacts that are open on a device: the sessions and measuring workers that the runtimes have here too."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from edge_assets.core.benchmark.harness import Contestant
from edge_assets.core.session import Feeds, Loadable
from edge_assets.core.types import Artifact
from edge_assets.devices.connection import AgentError, Connection
from edge_assets.devices.inventory import Device
from edge_assets.devices.transfer import send_artifact, send_bytes
from edge_assets.errors import MeasurementError, Refused
from edge_assets.later import np

BUILD_SECONDS = 3600.0  # of a TensorRT engine


@dataclass(frozen=True, kw_only=True)
class DeviceLoadable(Loadable):
    """How to open an artifact on a device. Its `path` is here."""

    artifact: Artifact
    device: Device

    def open(self, threads: int) -> DeviceSession:
        """The model, loaded there. Raises DeviceError, and Refused as the runtime there does."""
        connection = Connection(self.device)
        try:
            self.load(connection, threads)
        except BaseException:
            connection.close()
            raise
        return DeviceSession(connection)

    def load(self, connection: Connection, threads: int) -> dict[str, object]:
        """Send what the device has not, and load it. Returns load time and memory before."""
        path = send_artifact(connection, self.artifact, Path(self.path))
        if self.runtime == "tensorrt":  # an engine runs on the kind of GPU alone that it was built for
            path = str(connection.ask("build", path=path, sha256=self.artifact.sha256, seconds=BUILD_SECONDS)["path"])
        return connection.ask(
            "load",
            runtime=self.runtime,
            path=path,
            threads=threads,
            options=_as_json(self.options),
        )


def _as_json(options: Mapping[str, object]) -> object:
    """Options as the wire takes them: a sequence is a list."""
    return json.loads(json.dumps(options))


class DeviceSession:
    """A model that is loaded on a device."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """Outputs of one batch, computed there. Raises DeviceError, Refused."""
        return self.connection.run(feeds)

    def close(self) -> None:
        """End the agent that has the model."""
        self.connection.close()


@dataclass
class DeviceWorker:
    """A measuring worker on a device: what `harness.WorkerProcess` is on this machine."""

    contestant: Contestant
    inputs: Path
    connection: Connection | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        self.connection = Connection(self._loadable.device)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.connection:
            self.connection.close()

    @property
    def _loadable(self) -> DeviceLoadable:
        assert isinstance(self.contestant.loadable, DeviceLoadable)
        return self.contestant.loadable

    def load(self, threads: int) -> dict[str, object]:
        """The model loaded there, and the inputs that queries cycle through.

        Raises MeasurementError for the variant, DeviceError where the device is gone.
        """
        assert self.connection is not None
        try:
            answer = self._loadable.load(self.connection, threads)
            self.connection.ask("inputs", sha256=send_bytes(self.connection, self.inputs.read_bytes()))
        except (AgentError, Refused) as error:
            raise self._failed("load", error) from None
        return answer

    def ask(self, command: str, seconds: float = 0, **request: object) -> dict[str, object]:
        """The answer to one request. Raises MeasurementError for the variant, DeviceError where the device is gone."""
        assert self.connection is not None
        try:
            return self.connection.ask(command, seconds=seconds, **request)
        except (AgentError, Refused) as error:
            raise self._failed(command, error) from None

    def _failed(self, command: str, error: AgentError | Refused) -> MeasurementError:
        sentence = f"measuring failed on {self._loadable.device.name}: '{command}' failed: {error}"
        return MeasurementError(self.contestant.name, sentence)


class Pulse:
    """Keeps a connection's lease alive while others work: an agent that hears nothing takes us for gone."""

    EVERY = 60.0  # seconds

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.ended.set()
        self.thread.join()

    def _beat(self) -> None:
        while not self.ended.wait(self.EVERY):
            self.connection.ask("have", files=[])
