"""What a device needs to run a target's artifacts: runtimes, in releases that read them, and how to install them."""

from collections.abc import Iterable, Mapping

from edge_assets.core.tools import version
from edge_assets.core.types import Result
from edge_assets.devices.agent.models import SESSIONS
from edge_assets.devices.inventory import Device
from edge_assets.devices.transport import install_command
from edge_assets.errors import DeviceError, MissingTool
from edge_assets.families.families import FAMILIES
from edge_assets.targets import Target
from edge_assets.toolchains.onnx.releases import is_older, least_release

# by runtime: distributions of which any will do, the first of them where none is there
DISTRIBUTIONS: Mapping[str, tuple[str, ...]] = {
    "onnx": ("onnxruntime", "onnxruntime-gpu"),
    "litert": ("ai-edge-litert",),
    "tensorrt": ("tensorrt", "tensorrt-rtx"),
    "torchscript": ("torch",),
}
OPTIONAL = ("torchscript",)  # large, and wanted by a variant among many: devices may be without


def runtimes_of(target: Target) -> list[str]:
    """Those of a target's variants that agents have and every device of it needs, by name."""
    return sorted(_taken(target) - set(OPTIONAL))


def optional_runtimes_of(target: Target) -> list[str]:
    """Those that a device of the target may be without: their variants are then not measured there."""
    return sorted(_taken(target) & set(OPTIONAL))


def _taken(target: Target) -> set[str]:
    names = {variant.runtime for variant in FAMILIES[target.family].variants}
    return names & set(SESSIONS)


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
        release, _, _ = version(name).partition("+")  # what else names a build, no index has for other machines
        return f"{name}=={release}"
    except MissingTool:
        return name


def why_not(device: Device, versions: Mapping[str, str], runtime: str, made: Result | None = None) -> str | None:
    """Why a device with these versions cannot open an artifact, and the command that helps; None: it can.

    Without what was `made`, whether it has the runtime at all.
    """
    lacking = missing(versions, [runtime])
    if lacking:
        return f"{device.name} has no {' or '.join(DISTRIBUTIONS[runtime])}: {install_command(device, lacking)}"
    if made is None:
        return None
    if runtime == "onnx":
        return _older_opset(device, versions, made.facts.get("opset"))
    if runtime == "torchscript":
        return _older_torch(device, versions["torch"], made.recipe.tools.get("torch"))
    return None


def demand_runtime(device: Device, versions: Mapping[str, str], runtime: str) -> None:
    """Raises DeviceError, naming the command that helps, where a device does not have a runtime."""
    reason = why_not(device, versions, runtime)
    if reason is not None:
        raise DeviceError(reason)


def _older_opset(device: Device, versions: Mapping[str, str], opset: object) -> str | None:
    if not isinstance(opset, int):
        return None
    least = least_release(opset)
    installed = next(versions[name] for name in DISTRIBUTIONS["onnx"] if name in versions)
    if least is None or not is_older(installed, least):
        return None
    command = install_command(device, [_pinned("onnxruntime")])
    return f"{device.name} has ONNX Runtime {installed}, and opset {opset} needs {least} or later: {command}"


def _older_torch(device: Device, installed: str, wrote: str | None) -> str | None:
    """A release reads what it and those before it wrote; what later ones wrote, nobody promises."""
    if wrote is None or not is_older(installed, wrote):
        return None
    command = install_command(device, [_pinned("torch")])
    return f"{device.name} has PyTorch {installed}, and a file that {wrote} wrote needs that or later: {command}"
