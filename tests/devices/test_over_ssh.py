"""The whole way to a device over a real SSH server on loopback: recognised, leased, verified, timed, and lost."""

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
import torch
from onnx import TensorProto, helper

from edge_assets.cli import devices as cli
from edge_assets.core.benchmark.harness import Contestant, measure
from edge_assets.core.benchmark.statistics import MODES, Mode
from edge_assets.core.evidence import Measured
from edge_assets.core.types import Artifact, Built, Recipe, Result
from edge_assets.defs.entries import report_entries
from edge_assets.devices import needs, reach
from edge_assets.devices.connection import AgentError, Connection
from edge_assets.devices.inventory import Device, Inventory
from edge_assets.devices.lease import leased
from edge_assets.devices.needs import why_not
from edge_assets.devices.session import DeviceLoadable, DeviceWorker
from edge_assets.devices.transfer import send_bytes
from edge_assets.errors import DeviceError, MeasurementError
from edge_assets.families.cpu import CPU
from edge_assets.hashing import sha256_of
from edge_assets.pipeline import observers
from edge_assets.pipeline.blocked import blocked
from edge_assets.pipeline.cell import Cell
from edge_assets.pipeline.judgement import Judgement
from edge_assets.pipeline.measured import now
from edge_assets.targets.catalog import Target, parse_target
from edge_assets.targets.machine import this_machine
from edge_assets.targets.project import target
from resources import checkpoints
from resources.store import ArtifactStore
from tests.devices.conftest import BUSY
from tests.devices.sshd import Sshd, sshd
from tests.tiny.spec import TINY

BOARD: Target = parse_target(
    "bench-board",
    {
        "family": "cpu",
        "description": "this machine, over SSH",
        "architecture": os.uname().machine,
        "match": {"system": "Linux"},
        "batch_sizes": [1],
        "threads": 1,
        "quantization": {"activations": "uint8", "weights": "int8", "reduce_range": True, "torch_engine": "x86"},
        "budgets": {"size": "128 MiB", "memory": "1 GiB"},
    },
)
BOARDS: list[Device] = []  # the one of the test that runs


def agents(device: Device) -> list[psutil.Process]:
    """What runs on the device of this agent's."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if device.folder in " ".join(command) and "ssh" not in command[0]:
            found.append(process)
    return found


def eventually(check: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(0.05)
    return False


# --- reached -------------------------------------------------------------------------------------------


def test_an_agent_is_sent_once_says_what_it_runs_on_and_leaves_nothing_behind(board: Device) -> None:
    with Connection(board) as connection:
        assert connection.hello.machine.matches(BOARD)
        assert connection.hello.versions["numpy"] == np.__version__
        (sent,) = Path(board.folder).glob("agent-*.pyz")
    written = sent.stat().st_mtime_ns
    with Connection(board) as connection:
        assert send_bytes(connection, b"weights" * 10**6) == send_bytes(connection, b"weights" * 10**6)
    assert sent.stat().st_mtime_ns == written
    assert eventually(lambda: not agents(board))

    sent.write_bytes(b"something else")  # is noticed, and sent anew
    with Connection(board) as connection:
        assert connection.hello.protocol == 1


@pytest.mark.slow
def test_why_a_device_cannot_be_reached_is_one_sentence(board: Device, server: Sshd, tmp_path: Path) -> None:
    without = tmp_path / "python-without-numpy"
    without.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    old = tmp_path / "python3.8"
    old.write_text("#!/bin/sh\necho 'edge-assets: Python 3.8' >&2\nexit 1\n")
    talking = tmp_path / "talking"
    talking.write_text("#!/bin/sh\necho 'Welcome to the board!'\nsleep 20\n")
    no_python = tmp_path / "no-python"  # says what it got, with all that the agent may say in it
    no_python.write_text('#!/bin/sh\necho "unknown option: $2" >&2\nexit 2\n')
    for script in (without, old, talking, no_python):
        script.chmod(0o755)
    nobody = replace(board, address="ssh://127.0.0.1:1")
    stranger = replace(board, address=server.address.replace("ssh://", "ssh://no-such-user-"))
    unknown = replace(board, address="ssh://no-such-host.invalid")
    for device, message in (
        (nobody, "nothing answers at that address and port: is it on, and does it run sshd?"),
        (stranger, "SSH may not log in: try by hand, ssh -F .* no-such-user-"),
        (unknown, "its host name no-such-host.invalid is not known"),
        (replace(board, interpreter="/opt/nowhere/python"), "no interpreter '/opt/nowhere/python' on it"),
        (replace(board, interpreter=str(no_python)), "its agent ended: "),
        (replace(board, folder="/proc/nowhere"), "its folder /proc/nowhere cannot be written: set `folder`"),
        (replace(board, ssh_config="/nowhere/config"), "its ssh_config cannot be read: /nowhere/config"),
        (replace(board, interpreter=str(without)), "has no NumPy: ssh -F .*python-without-numpy -m pip install numpy"),
        (replace(board, interpreter=str(old)), r"older than Python 3\.9"),
        (replace(board, interpreter=str(talking)), "sent what is no answer of an agent: Welcome to the board!"),
    ):
        with pytest.raises(DeviceError, match=f"board-1 .*{message}") as raised:
            Connection(device)
        assert "\n" not in str(raised.value)


def test_a_host_key_that_changed_is_no_device_of_ours(board: Device, tmp_path: Path) -> None:
    with sshd(tmp_path) as own:
        device = replace(board, address=own.address, ssh_config=own.config)
        with Connection(device):
            pass
        own.new_host_key()
        with pytest.raises(DeviceError, match=r"its host key is not the one .*ssh-keygen -R '\[127\.0\.0\.1\]:\d+'"):
            Connection(device)


def test_a_machine_that_is_not_what_it_claims_is_not_measured(board: Device) -> None:
    hello = reach.asked(board).demanded()
    with pytest.raises(DeviceError, match=r"board-1 is no raspberry-pi-5: .*its board is unknown, not Raspberry Pi 5"):
        reach.demand_match(board, hello, target("raspberry-pi-5"))


# --- a model of one operator ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def doubling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = x + x."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "doubling", value[:1], value[1:])
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path


def loadable(device: Device, path: Path) -> DeviceLoadable:
    size = path.stat().st_size
    artifact = Artifact.from_dict({"files": [{"path": path.name, "sha256": sha256_of(path), "size": size}]})
    options = {"inputs": ["x"], "outputs": ["y"]}
    return DeviceLoadable(runtime="onnx", path=str(path), options=options, artifact=artifact, device=device)


def test_a_model_runs_there_as_here(board: Device, doubling: Path) -> None:
    x = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    with loadable(board, doubling).opened(threads=1) as session:
        assert np.array_equal(session.run({"x": x})["y"], 2 * x)
        with pytest.raises(AgentError, match="x"):
            session.run({"other": x})
        assert np.array_equal(session.run({"x": x})["y"], 2 * x), "one request that fails ends nothing"


def test_a_model_that_the_runtime_there_cannot_read_fails_by_name(board: Device, tmp_path: Path) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"no graph")
    contestant = Contestant("onnx_broken", sha256_of(broken), loadable(board, broken))
    feeds = {"x": np.ones((8, 4), np.float32)}
    with pytest.raises(MeasurementError, match=r"onnx_broken: measuring failed on board-1: 'load' failed"):
        measure([contestant], feeds, None, (1,), 1, print, start=DeviceWorker)


def endless(connection: Connection) -> None:
    """Run the model until the device is gone."""
    while True:
        connection.run({"x": np.ones((1, 4), np.float32)})


def test_a_device_that_goes_away_is_one_sentence_and_nothing_stays_on_it(board: Device, doubling: Path) -> None:
    """The client is killed while the model runs there; and the agent, while the product waits for it."""
    model = loadable(board, doubling)
    with Connection(board) as connection:
        model.load(connection, 1)
        sha256 = send_bytes(connection, b"")
        assert sha256
        killer = threading.Timer(1.0, connection.process.kill)
        killer.start()
        with pytest.raises(DeviceError, match=r"board-1 went away during 'run'"):
            endless(connection)
    assert eventually(lambda: not agents(board))

    with Connection(board) as connection:
        model.load(connection, 1)
        (agent,) = agents(board)
        agent.send_signal(signal.SIGKILL)
        with pytest.raises(DeviceError, match=r"board-1 went away during '\w+'") as raised:
            connection.run({"x": np.ones((1, 4), np.float32)})
        assert "\n" not in str(raised.value)


def test_a_file_goes_on_where_its_sending_was_cut(board: Device, tmp_path: Path) -> None:
    content = os.urandom(3 * 2**20)
    path = tmp_path / "weights.bin"
    path.write_bytes(content)
    sha256 = sha256_of(path)
    with Connection(board) as connection:
        connection.exchange({"command": "put", "sha256": sha256, "offset": 0, "last": False}, content[: 2**20])
        connection.process.kill()
    with Connection(board) as connection:
        assert connection.ask("have", files=[sha256])["have"] == {sha256: 2**20}
        assert send_bytes(connection, content) == sha256
        assert connection.ask("have", files=[sha256])["have"] == {sha256: None}


# --- leased --------------------------------------------------------------------------------------------


def test_one_measurement_at_a_time_and_who_waits_says_for_whom(
    board: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lines: list[str] = []
    order: list[str] = []
    monkeypatch.setattr("edge_assets.devices.lease.AGAIN", 0.1)
    other = replace(board, folder=board.folder)

    def second() -> None:
        with leased(other, "tiny/cpu/second", lines.append):
            order.append("second")

    with leased(board, "tiny/cpu/first", print):
        thread = threading.Thread(target=second)
        thread.start()
        assert eventually(lambda: bool(lines))
        order.append("first")
    thread.join(timeout=60)
    assert order == ["first", "second"]
    assert re.fullmatch(r"waiting for board-1, which is measured by \w+@\S+, tiny/cpu/first", lines[0]), lines


def test_who_is_killed_with_a_lease_frees_it(board: Device) -> None:
    with Connection(board) as connection:
        # this machine is the device, and may be measured by a build of another test
        assert eventually(lambda: connection.ask("lease", by="somebody")["held"], seconds=120)
        connection.process.kill()
    assert eventually(lambda: not agents(board))
    with leased(board, "the next", print):
        pass


def test_a_check_runs_a_model_and_reads_the_power(
    board: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "target", lambda _name: BOARD)

    def checked(device: Device) -> str:
        monkeypatch.setattr(cli, "devices", lambda: Inventory({device.name: device}))
        cli.check_device(device.name)
        return capsys.readouterr().out

    meter = tmp_path / "power1_input"
    meter.write_text("3250000")
    said = checked(replace(board, power=str(meter)))
    assert f"✓ takes 3.25 W now, by {meter}" in said
    assert "✓ runs a small graph in ONNX Runtime, and its result is right" in said
    meter.unlink()
    with pytest.raises(DeviceError, match="board-1 has no number of microwatts in .*power1_input: set `power`"):
        checked(replace(board, power=str(meter)))

    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime/__init__.py").write_text("raise ImportError('libgomp.so.1: no such file')")
    broken = tmp_path / "python-with-a-broken-runtime"
    broken.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    broken.chmod(0o755)
    with pytest.raises(DeviceError, match=r"board-1 cannot run a graph in ONNX Runtime: ImportError: libgomp\.so\.1"):
        checked(replace(board, interpreter=str(broken)))


def test_a_device_without_room_or_too_hot_is_not_measured(
    board: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    full = replace(board, limits=replace(BUSY, free_disk_bytes=2**60))
    with pytest.raises(DeviceError, match=r"board-1 has .* of free disk, below its limit of"), leased(full, "x", print):
        pass
    zone = tmp_path / "sensors/sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("81000")
    hot = replace(board, sensors=str(tmp_path / "sensors"), limits=replace(BUSY, temperature_c=70))
    monkeypatch.setattr("edge_assets.devices.readiness.LOOK_EVERY", 0.1)
    lines: list[str] = []
    with leased(hot, "x", lines.append) as readiness:
        cooling = threading.Timer(1.0, (zone / "temp").write_text, ["60000"])
        cooling.start()
        assert readiness.awaited() > 0
    assert lines == ["board-1 is at 81 °C, above its limit of 70 °C: waiting"]
    monkeypatch.setattr("edge_assets.devices.readiness.COOLING", 0.2)
    (zone / "temp").write_text("81000")
    with leased(hot, "x", lines.append) as readiness, pytest.raises(DeviceError, match="is at 81 °C, above its limit"):
        readiness.awaited()


@pytest.mark.slow
def test_a_throttled_turn_is_repeated_and_then_marked(board: Device, doubling: Path, tmp_path: Path) -> None:
    counter = tmp_path / "sensors/sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    counter.parent.mkdir(parents=True)
    counter.write_text("0")
    ended = threading.Event()

    def throttle() -> None:
        number = 0
        while not ended.wait(0.05):
            number += 1
            counter.write_text(str(number))

    hot = replace(board, sensors=str(tmp_path / "sensors"))
    contestant = Contestant("onnx_model", sha256_of(doubling), loadable(hot, doubling))
    thread = threading.Thread(target=throttle)
    thread.start()
    try:
        feeds = {"x": np.ones((8, 4), np.float32)}
        rows = measure([contestant], feeds, Mode("short", 12, 2.4), (1,), 1, print, start=DeviceWorker)
    finally:
        ended.set()
        thread.join()
    latencies = rows["onnx_model"].latency_ms
    assert latencies is not None
    said = latencies["1"].surroundings
    assert said is not None
    assert (said.disturbed, said.turns, said.repeated, said.throttled) == (12, 12, 4, True)
    assert "12 of 12 turns were disturbed: the device held itself back" in str(said.said)


# --- a whole cell --------------------------------------------------------------------------------------


@pytest.fixture
def cell(
    board: Device, store: ArtifactStore, checkpoint_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Cell:
    BOARDS[:] = [board]
    monkeypatch.setattr(observers, "devices", lambda: Inventory({board.name: board}))
    monkeypatch.setattr("edge_assets.devices.reach.KEPT", 0.0)
    monkeypatch.setitem(MODES, "rapid", Mode("rapid", 12, 1.2))
    checkpoint = checkpoints.register(store, "tiny", str(checkpoint_file))
    spec = replace(TINY, targets=("graviton3",))
    return Cell(spec, CPU, BOARD, checkpoint, store, lambda _line: None)


def judged(cell: Cell) -> Judgement:
    builts: dict[str, Built] = {}
    for name in ("checkpoint", "onnx_model", "onnx_int8_static"):
        builts[name] = cell.build(name)
    builts = cell.observe(builts)
    return Judgement(cell, builts, cell.measure(builts, "rapid"))


@pytest.mark.slow
def test_a_cell_is_verified_and_timed_on_its_device_and_stays_so_while_it_is_away(
    cell: Cell, server: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {row.artifact: row for row in judged(cell).rows}
    winner = next(row for row in rows.values() if row.verdict == "released")
    assert winner.p50_ms is not None
    assert winner.measured_on is not None
    assert "device board-1" in winner.measured_on
    assert winner.provenance is not None
    assert {kind: origin.tier for kind, origin in winner.provenance.items()} == {
        "parity": "device",
        "accuracy": "device",
        "latency": "device",
        "memory": "device",
    }
    assert winner.observations is not None
    assert {one.device for one in winner.observations} == {"board-1", None}, "the board, and this machine"
    assert winner.observations[0].samples == winner.observations[1].samples, "the whole set"
    assert winner.findings is None
    gates = {gate.name: gate.tier for gate in winner.evidence}
    assert gates == {"parity": "device", "accuracy": "device", "size": None, "memory": "device"}

    judgement = judged(replace(cell))
    sent = {entry.run: entry for entry in report_entries(judgement, judgement.report(), "a run")}[winner.artifact]
    assert sent.tags["tier.parity"] == "device"
    assert sent.tags["by.parity"] == winner.provenance["parity"].by
    assert sent.metrics["parity_snr_db"] == winner.parity_snr_db, "the number that the tag is about"
    assert sent.metrics["accuracy"] == winner.accuracy

    away = replace(BOARDS[0], address="ssh://127.0.0.1:1")
    monkeypatch.setattr(observers, "devices", lambda: Inventory({away.name: away}))
    again = judged(replace(cell)).rows
    assert [row.latency_ms for row in again] == [rows[row.artifact].latency_ms for row in again]


def test_a_device_that_was_never_there_leaves_the_others_of_the_release(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = replace(BOARDS[0], name="board-2", address="ssh://127.0.0.1:1")
    monkeypatch.setattr(observers, "devices", lambda: Inventory({away.name: away}))
    judgement = judged(cell)
    winner = judgement.winning_row()
    assert winner.p50_ms is None
    assert winner.not_measured is not None
    assert winner.not_measured.startswith("not measured: board-2 cannot be reached: nothing answers")
    assert "latency not measured: board-2 cannot be reached" in winner.reason


def test_an_emulated_cpu_that_the_project_names_is_asked_once(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own entry, which says how many samples; not a second time because the target names that CPU."""
    named = Device("arm", "graviton3", "emulated", emulator="arm-max", samples=16)
    monkeypatch.setattr(observers, "devices", lambda: Inventory({named.name: named}))
    asked: list[Device] = []

    def emulated(device: Device) -> list[observers.Observer]:
        asked.append(device)
        return []

    monkeypatch.setattr(observers, "_emulated", emulated)
    observers.observers(replace(cell, target=target("graviton3")))
    assert asked == [named]


def test_a_tier_that_is_demanded_and_not_there_blocks_the_release(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observers, "devices", Inventory)
    strict = replace(cell, target=replace(target("graviton3"), evidence="device", emulation=()))
    verdicts = {entry.candidate.name: entry for entry in judged(strict).verdicts}
    assert verdicts["onnx_model"].verdict == "missing_evidence"
    reason = verdicts["onnx_model"].reason
    assert reason.startswith("evidence of tier device is demanded, and parity is known by tier host")


def test_a_runtime_that_cannot_read_the_artifact_is_said_before_it_is_sent(board: Device) -> None:
    def reason(runtime: str, versions: dict[str, str], made: Result | None = None) -> str | None:
        return why_not(board, versions, runtime, made)

    graph = Result(Recipe("onnx_model", "1"), None, {"opset": 20})
    assert reason("onnx", {"onnxruntime-gpu": "1.20.1"}, graph) is None
    program = Result(Recipe("torch_int8_static", "1", tools={"torch": "2.9.1+cpu"}), None, {})
    assert reason("torchscript", {"torch": "2.9.0"}, program) is None
    for said, expected in (
        (
            reason("onnx", {"numpy": "2.0"}),
            "board-1 has no onnxruntime or onnxruntime-gpu: ssh -F .* -p .*onnxruntime==",
        ),
        (reason("onnx", {"onnxruntime": "1.16.3"}, graph), r"has ONNX Runtime 1\.16\.3, and opset 20 needs 1\.17 or"),
        (
            reason("torchscript", {"numpy": "2.0"}),
            r"board-1 has no torch: ssh -F .* -p .* -m pip install torch==[\d.]+'?$",
        ),
        (
            reason("torchscript", {"torch": "2.4.1"}, program),
            r"has PyTorch 2\.4\.1, and a file that 2\.9\.1\+cpu wrote",
        ),
        (
            reason("tensorrt", {"numpy": "2.0"}),
            "board-1 has no tensorrt or tensorrt-rtx: ssh -F .*pip install tensorrt",
        ),
    ):
        assert said is not None
        assert re.search(expected, said), said


def test_a_device_that_lacks_every_runtime_leaves_the_release_without_times(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(needs, "DISTRIBUTIONS", {"onnx": ("no-such-runtime",)})
    winner = judged(cell).winning_row()
    assert winner.p50_ms is None
    assert winner.not_measured is not None
    assert winner.not_measured.startswith("not measured: board-1 has no no-such-runtime: ssh -F")


def test_a_variant_whose_runtime_a_device_lacks_says_what_installs_it(cell: Cell) -> None:
    built = cell.build("onnx_model")
    reason = "board-1 has no torch: ssh board pip install torch"
    asked = Recipe("observation", "1", {}, {"tier": "device"})
    lacking = Result(asked, None, {"unavailable": True}, refused=reason)
    measured = Measured(
        mode="rapid",
        threads=1,
        machine=this_machine(),
        versions={},
        measured_at=now(),
        device="board-1",
        rows={},
    )
    assert blocked(cell, {}, measured, replace(built, elsewhere=(lacking,))) == ("unavailable", reason)
    nobody = replace(measured, device=None)
    assert blocked(cell, {}, nobody, replace(built, elsewhere=(lacking,))) is None, "no other was timed either"


def test_a_torchscript_program_runs_there_as_here(board: Device, tmp_path: Path) -> None:
    class Doubling(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + x

    path = tmp_path / "model.pt"
    torch.jit.trace(Doubling(), torch.ones(1, 4)).save(str(path))
    program = replace(loadable(board, path), runtime="torchscript")
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    with program.opened(threads=1) as session:
        assert np.array_equal(session.run({"x": x})["y"], 2 * x)
