"""What a device needs to run a target's artifacts: runtimes, in releases that read them, and how to install them."""

import shlex
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from edge_assets.core.tools import version
from edge_assets.devices.agent.models import SESSIONS
from edge_assets.devices.inventory import Device
from edge_assets.errors import DeviceError, MissingTool
from edge_assets.families.families import FAMILIES
from edge_assets.targets import Target
from edge_assets.toolchains.onnx.releases import is_older, least_release

# by runtime: distributions of which any will do, the first of them where none is there
DISTRIBUTIONS: Mapping[str, tuple[str, ...]] = {
    "onnx": ("onnxruntime", "onnxruntime-gpu"),
    "litert": ("ai-edge-litert",),
    "tensorrt": ("tensorrt", "tensorrt-rtx"),
}


def runtimes_of(target: Target) -> list[str]:
    """Those of a target's variants that agents have, by name."""
    names = {variant.runtime for variant in FAMILIES[target.family].variants}
    return sorted(names & set(SESSIONS))


def missing(versions: Mapping[str, str], runtimes: Iterable[str]) -> list[str]:
    """Distributions that a device with these versions lacks, each as pip takes it."""
    found = []
    for runtime in runtimes:
        if not any(name in versions for name in DISTRIBUTIONS[runtime]):
            found.append(_pinned(DISTRIBUTIONS[runtime][0]))
    return found


def _pinned(name: str) -> str:
    """In the version that is installed here, where one is."""
    try:
        return f"{name}=={version(name)}"
    except MissingTool:
        return name


def install_command(device: Device, packages: Iterable[str]) -> str:
    """The one command that installs packages on the device."""
    pip = [device.interpreter, "-m", "pip", "install", *packages]
    if device.kind != "ssh":
        return shlex.join(pip)
    parts = urlsplit(device.address)
    login = f"{parts.username}@{parts.hostname}" if parts.username else str(parts.hostname)
    port = ["-p", str(parts.port)] if parts.port else []
    return " ".join(["ssh", *port, login, shlex.quote(shlex.join(pip))])


def demand_runtime(device: Device, versions: Mapping[str, str], runtime: str, opset: object) -> None:
    """Raises DeviceError, naming the command that helps, where a device cannot read an artifact: before it is sent."""
    lacking = missing(versions, [runtime])
    if lacking:
        command = install_command(device, lacking)
        raise DeviceError(f"{device.name} has no {' or '.join(DISTRIBUTIONS[runtime])}: {command}")
    if runtime != "onnx" or not isinstance(opset, int):
        return
    least = least_release(opset)
    installed = next(versions[name] for name in DISTRIBUTIONS[runtime] if name in versions)
    if least is not None and is_older(installed, least):
        command = install_command(device, [_pinned("onnxruntime")])
        raise DeviceError(
            f"{device.name} has ONNX Runtime {installed}, and opset {opset} needs {least} or later: {command}"
        )
