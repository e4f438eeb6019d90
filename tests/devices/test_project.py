"""A project with a device that is away, comes back, and is used: by the command line, the sensor, and Pipes."""

import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from edge_assets.devices.inventory import Device, Inventory
from edge_assets.errors import DeviceError
from tests.conftest import Project
from tests.devices.sshd import Sshd, sshd

TARGETS = f"""
bench-board:
  family: cpu
  description: this machine, over SSH
  architecture: {os.uname().machine}
  match: {{system: Linux}}
  batch_sizes: [1]
  threads: 1
  quantization: {{activations: uint8, weights: int8, reduce_range: true, torch_engine: x86}}
  budgets: {{size: 128 MiB, memory: 1 GiB}}
"""
SETTINGS = '[tool.edge_assets]\nmodels = []\ntargets = ["targets.yaml"]\ndevices = "devices.yaml"\n'
# prints what the sensor of a model's devices asks for
TICK = """
import dagster as dg
from edge_assets.defs.instance import prepare
from edge_assets.defs.resources import resources
from edge_assets.definitions import defs
from edge_assets.settings import home
prepare(home())
with dg.DagsterInstance.get() as instance:
    repository = defs.get_repository_def()
    sensor = repository.get_sensor_def("boarded_devices_sensor")
    with dg.build_sensor_context(instance=instance, repository_def=repository, resources=resources()) as context:
        tick = sensor(context)
    print([request.partition_key for request in tick.run_requests], tick.skip_reason and tick.skip_reason.skip_message)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("sshd")) as found:
        yield found


def write_devices(project: Project, server: Sshd, address: str) -> None:
    (project.folder / "devices.yaml").write_text(
        f"board-1:\n  target: bench-board\n  address: {address}\n  interpreter: {sys.executable}\n"
        f"  ssh_config: {server.config}\n  folder: {project.folder}/on-device\n  limits: {{load: 64}}\n"
    )


@pytest.mark.slow
def test_what_waited_for_a_device_is_measured_once_it_is_back(project: Project, server: Sshd) -> None:
    project.environment["EDGE_ASSETS_MODELS"] = "tests.devices.specs:BOARDED"
    (project.folder / "targets.yaml").write_text(TARGETS)
    (project.folder / "pyproject.toml").write_text(SETTINGS)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        write_devices(project, server, f"ssh://127.0.0.1:{nobody.getsockname()[1]}")
        built = project.run("build", "--model", "boarded", "--target", "bench-board")
        assert built.returncode == 0, built.stdout + built.stderr
        assert "board-1 cannot be reached: nothing answers at that address and port" in built.stdout
        assert "latency not measured: board-1 cannot be reached" in built.stdout
        listed = project.run("devices")
        assert listed.returncode == 1
        assert "board-1" in listed.stdout
        assert "cannot be reached" in " ".join(listed.stdout.split())
        assert "[] board-1 cannot be reached" in tick(project)

    write_devices(project, server, server.address)
    checked = project.run("devices", "check", "board-1")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "✓ is a bench-board" in checked.stdout
    assert "✓ ended, with nothing left behind" in checked.stdout
    assert "|bench-board'] None" in tick(project)

    again = project.run("build", "--model", "boarded", "--target", "bench-board")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "on bench-board: observation: not done yet" in again.stdout
    assert "verifying onnx_model on board-1" in again.stdout
    rows = {}
    for row in json.loads(project.run("scorecard", "--model", "boarded", "--json").stdout):
        rows[row["artifact"]] = row
    assert rows["onnx_model"]["latency_ms"]["p50"] > 0
    assert rows["onnx_model"]["provenance"]["parity"]["tier"] == "device"
    assert rows["torch_int8"]["latency_ms"]["p50"] > 0, "its interpreter has PyTorch"
    assert rows["torch_int8"]["provenance"]["latency"]["tier"] == "device"
    assert "1 up to date" in project.run("build", "--model", "boarded", "--target", "bench-board").stdout
    assert "[] nothing waits for a device" in tick(project)


def tick(project: Project) -> str:
    """What the sensor asks for, and what it says where that is nothing."""
    script = project.folder / "tick.py"
    script.write_text(TICK)
    ran = project.run_module("tests.devices.ticking", str(script))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


# --- Pipes ---------------------------------------------------------------------------------------------

SOAK = """
import sys
from dagster_pipes import open_dagster_pipes
with open_dagster_pipes() as pipes:
    print("soaking", pipes.extras["minutes"])
    pipes.log.info("warm")
    pipes.report_asset_materialization(metadata={"temperature": 61.5})
"""


def test_a_script_on_a_device_reports_into_the_run(
    server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_assets.defs import pipes

    board = Device(
        name="board-1",
        target="bench-board",
        address=server.address,
        interpreter=sys.executable,
        folder=str(tmp_path / "on-device"),
        ssh_config=server.config,
    )
    monkeypatch.setattr(pipes, "devices", lambda: Inventory({board.name: board}))
    script, failing = tmp_path / "soak.py", tmp_path / "failing.py"
    script.write_text(SOAK)
    failing.write_text("raise SystemExit('no sensor')")

    @dg.asset
    def soaked(context: dg.AssetExecutionContext, board: pipes.PipesDeviceClient) -> object:
        return board.run(context=context, script=script, extras={"minutes": 3}).get_materialize_result()

    @dg.asset
    def failed(context: dg.AssetExecutionContext, board: pipes.PipesDeviceClient) -> object:
        return board.run(context=context, script=failing).get_materialize_result()

    resources = {"board": pipes.PipesDeviceClient("board-1")}
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([soaked], resources=resources, instance=instance)
        (event,) = result.asset_materializations_for_node("soaked")
        assert event.metadata["temperature"].value == 61.5
        logged = [entry.user_message for entry in instance.all_logs(result.run_id)]
        assert any("warm" in line for line in logged)
        assert "soaking 3" in logged
        with pytest.raises(DeviceError, match=r"failing\.py failed on board-1 \(exit 1\): no sensor"):
            dg.materialize([failed], resources=resources, instance=instance)
