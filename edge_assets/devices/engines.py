"""Engines of TensorRT kits that a device builds on its GPU, and that come back to be part of the artifact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_assets.core.shapes import read
from edge_assets.core.types import Artifact, checked_sha256
from edge_assets.devices.connection import Connection
from edge_assets.devices.session import BUILD_SECONDS
from edge_assets.devices.transfer import fetch, send_artifact
from edge_assets.errors import DeviceError, Malformed
from edge_assets.toolchains.tensorrt.kit import EnginePlatform


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a device says of the engine that a kit has there."""

    engine: EnginePlatform  # what it was built for
    sha256: str
    size: int


def built_there(connection: Connection, kit: Artifact, path: Path, kept: Path) -> tuple[Path, EnginePlatform]:
    """The engine that a kit at `path` has on the device, fetched below `kept`, and what it was built for.

    It is built there if none was yet. Raises Refused in the words of the kit's script, DeviceError, AgentError.
    """
    there = send_artifact(connection, kit, path)
    said = connection.ask("build", path=there, sha256=kit.sha256, seconds=BUILD_SECONDS)
    try:
        answer = read(Answer, said)
        checked_sha256(answer.sha256)
    except Malformed as error:
        raise DeviceError(f"{connection.device.name} says of an engine what is none's: {error}") from None
    return fetch(connection, answer.sha256, answer.size, kept), answer.engine
