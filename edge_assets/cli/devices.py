"""`edge-assets devices`: which devices a project has, how they are, and whether the whole way to one works."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
from rich.markup import escape
from rich.table import Table

from edge_assets.core.sizes import readable_size
from edge_assets.core.types import Artifact
from edge_assets.devices import needs, packing, reach
from edge_assets.devices.connection import AgentError, Connection, Hello
from edge_assets.devices.inventory import Device, Inventory, devices
from edge_assets.devices.readiness import demand_power, demand_room
from edge_assets.devices.session import DeviceLoadable
from edge_assets.devices.transfer import send_bytes
from edge_assets.devices.transport import install_command
from edge_assets.errors import DeviceError, EdgeAssetsError, Refused, one_line
from edge_assets.hashing import sha256_of
from edge_assets.report.console import console
from edge_assets.targets.project import target

CLOCK_TOLERANCE = 300  # seconds: beyond that, times in logs of the device mislead
PIECE = 2**20  # bytes that a check sends, once whole and once not at all


def print_devices() -> bool:
    """A line per device with its state. False where an entry is wrong or a device cannot be measured."""
    place = console()
    inventory = devices()
    for problem in inventory.broken.values():
        place.print(f"[red]✗[/] {escape(str(problem))}", soft_wrap=True)
    if not inventory.devices and not inventory.broken:
        place.print(
            'no devices: name a file in pyproject.toml, [tool.edge_assets] devices = "devices.yaml"',
            markup=False,
            soft_wrap=True,
        )
        return True
    table = Table()
    for heading in ("device", "target", "address", "state"):
        table.add_column(heading, overflow="fold")
    is_ready = not inventory.broken
    for device in inventory.devices.values():
        state, is_fine = _state(device)
        is_ready = is_ready and is_fine
        table.add_row(device.name, device.target, device.address, state)
    if inventory.devices:
        place.print(table)
    return is_ready


def summary(inventory: Inventory, name: str) -> str | None:
    """The devices of a target by name, without asking them; None where there are none."""
    of_target = inventory.of(name)
    names = [device.name for device in of_target if device.is_timed]
    emulated = [device.name for device in of_target if not device.is_timed]
    parts = [f"device {', '.join(names)}"] if names else []
    parts += [f"emulated by {', '.join(emulated)}"] if emulated else []
    return "; ".join(parts) or None


def _state(device: Device) -> tuple[str, bool]:
    """In a table of rich, and whether it can be measured."""
    if device.kind == "browser":
        return "comes by itself: edge-assets devices browser", True
    answer = reach.asked(device, anew=True)
    if answer.hello is None:
        return f"[red]{escape(answer.reason or '')}[/]", False
    hello = answer.hello
    if device.kind == "emulated":
        return f"[green]ready, emulates {device.emulator} here[/]", True
    parts = [hello.machine.cpu, f"{hello.machine.cores} cores"]
    if hello.telemetry.temperature_c is not None:
        parts.append(f"{hello.telemetry.temperature_c:.0f} °C")
    if hello.telemetry.throttled:
        parts.append("throttled")
    try:
        reach.demand_match(device, hello, target(device.target))
        demand_room(device, hello)
        demand_power(device, hello)
        lacking = needs.missing(hello.versions, needs.runtimes_of(target(device.target)))
    except EdgeAssetsError as error:
        return f"[red]{escape(str(error))}[/]", False
    if lacking:
        command = install_command(device, lacking)
        return f"[yellow]{', '.join(parts)}; lacks {escape(', '.join(lacking))}: {escape(command)}[/]", False
    return f"[green]ready: {', '.join(parts)}[/]", True


def check_device(name: str) -> None:
    """Try the whole way to a device, a line per step. Raises the error of the step that fails."""
    device = devices().device(name)
    if device.kind == "browser":
        raise DeviceError(f"{name} is a browser, which comes by itself: edge-assets devices browser")
    began = time.monotonic()
    with Connection(device) as connection:
        for step in _steps(device, connection):
            click.echo(f"✓ {step}")
    click.echo(f"✓ ended, with nothing left behind: {time.monotonic() - began:.1f} s in all")


def _steps(device: Device, connection: Connection) -> Iterator[str]:
    hello = connection.hello
    yield f"reached {device.address} with agent {packing.packed().sha256[:8]}, Python {hello.versions['python']}"
    if device.kind != "emulated":
        reach.demand_match(device, hello, target(device.target))
        yield f"is a {device.target}: {hello.machine.cpu}, {hello.machine.architecture}, {hello.machine.cores} cores"
    runtimes = needs.runtimes_of(target(device.target))
    for runtime in runtimes:
        needs.demand_runtime(device, hello.versions, runtime)
    yield f"has what its artifacts need: {', '.join(runtimes)}"
    yield from _optional(device, hello)
    yield _clock(hello)
    demand_room(device, hello)
    yield f"has room: {readable_size(hello.free_disk_bytes)} of disk"
    yield _condition(hello)
    demand_power(device, hello)
    if hello.power_w is not None:
        yield f"takes {hello.power_w:.2f} W now, by {device.power}"
    content = np.random.default_rng(0).bytes(PIECE)
    first, second = _timed(lambda: send_bytes(connection, content)), _timed(lambda: send_bytes(connection, content))
    yield f"takes {readable_size(PIECE)} in {first:.2f} s, and the second time in {second:.2f} s"
    if "onnx" in runtimes:
        yield _run(device, connection)
    if device.is_timed:
        answer = connection.ask("lease", by="edge-assets devices check")
        if not answer["held"]:
            yield "is measured by somebody now: a measurement of yours would wait"
        else:
            yield "is free to be measured"
    with suppress(AgentError):
        connection.ask("bound")


def _run(device: Device, connection: Connection) -> str:
    """Open a small graph there and run it: a runtime that is installed may still not load."""
    from onnx import TensorProto, helper

    fields = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "doubling", fields[:1], fields[1:])
    opset = helper.make_opsetid("", target(device.target).opset)
    version = helper.find_min_ir_version_for([opset])
    content = helper.make_model(graph, opset_imports=[opset], ir_version=version).SerializeToString()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(content)
        file = {"path": path.name, "sha256": sha256_of(path), "size": len(content)}
        model = DeviceLoadable(
            runtime="onnx",
            path=str(path),
            options={"inputs": ["x"], "outputs": ["y"]},
            artifact=Artifact.from_dict({"files": [file]}),
            device=device,
        )
        try:
            model.load(connection, threads=1)
            outputs = connection.run({"x": np.ones(1, np.float32)})
        except (AgentError, Refused) as error:
            raise DeviceError(f"{device.name} cannot run a graph in ONNX Runtime: {one_line(error, 300)}") from None
    if outputs["y"].tolist() != [2.0]:
        raise DeviceError(f"{device.name} computes 1 + 1 = {outputs['y'].tolist()} in ONNX Runtime")
    return "runs a small graph in ONNX Runtime, and its result is right"


def _optional(device: Device, hello: Hello) -> Iterator[str]:
    """Runtimes that it may be without."""
    for runtime in needs.optional_runtimes_of(target(device.target)):
        lacking = needs.missing(hello.versions, [runtime])
        if not lacking:
            continue
        said = f"is without {runtime}, whose variants are not measured on it"
        if device.kind != "emulated":  # which never has it
            said += f": {install_command(device, lacking)}"
        yield said


def _timed(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def _clock(hello: Hello) -> str:
    """Nothing is decided by a device's clock."""
    difference = hello.clock - time.time()
    if abs(difference) > CLOCK_TOLERANCE:
        return (
            f"its clock differs by {difference / 3600:.1f} h: times are taken from this machine's, so that is no harm"
        )
    return "its clock agrees with this machine's"


def _condition(hello: Hello) -> str:
    said = hello.telemetry
    parts = []
    if said.temperature_c is not None:
        parts.append(f"{said.temperature_c:.0f} °C")
    if said.frequency_mhz is not None:
        parts.append(f"{said.frequency_mhz:.0f} MHz")
    if said.busy_cores is not None:
        parts.append(f"{said.busy_cores:.1f} cores busy")
    if said.throttled is not None:
        parts.append("throttled" if said.throttled else "not throttled")
    unknown = [] if said.temperature_c is not None else ["temperature"]
    unknown += [] if said.throttled is not None else ["throttling"]
    text = f"is at {', '.join(parts)}" if parts else "says nothing of its condition"
    return f"{text}; it does not say: {', '.join(unknown)}" if unknown else text
