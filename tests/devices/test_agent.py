"""The agent by itself: what it is packed of, what it takes as files, what it says of a device's sensors."""

import ast
import gc
import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edge_assets.devices import packing
from edge_assets.devices.agent.files import FileFault, Files
from edge_assets.devices.agent.telemetry import Sensors, Watch
from edge_assets.devices.agent.wire import BrokenWire, receive

STANDARD = {"numpy", "onnxruntime", "ai_edge_litert", "torch", "tensorrt", "edge_assets", "__future__"}


def parsed(path: Path) -> ast.Module:
    """As the oldest Python of a device reads it."""
    gc.disable()  # Python 3.11 fails by "recursion depth mismatch" where another test's garbage is collected meanwhile
    try:
        return ast.parse(path.read_text(), feature_version=packing.OLDEST_PYTHON)
    finally:
        gc.enable()


def test_what_is_packed_needs_nothing_that_a_device_has_not() -> None:
    names = set(packing.modules())
    for name, path in packing.modules().items():
        tree = parsed(path)
        checked = [node for node in ast.walk(tree) if not _is_for_types(node, tree)]
        for node in checked:
            for imported in _imports(node):
                root = imported.partition(".")[0]
                assert root in STANDARD or root in sys.stdlib_module_names, (name, imported)
                if root == "edge_assets":
                    file = imported.replace(".", "/")
                    assert f"{file}.py" in names or any(other.startswith(f"{file}/") for other in names), (
                        name,
                        imported,
                    )


def _imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [str(node.module)]
    return []


def _is_for_types(node: ast.AST, tree: ast.Module) -> bool:
    """Whether it stands below `if TYPE_CHECKING`."""
    guarded: list[ast.AST] = []
    for statement in tree.body:
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            guarded += ast.walk(statement)
    return any(inner is node for inner in guarded)


def test_what_is_packed_runs_on_the_oldest_python_that_is_promised() -> None:
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--target-version", "py39", "--select", "FA102,E9"]
    files = [str(path) for path in packing.modules().values()]
    checked = subprocess.run([*ruff, *files], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_equal_modules_give_equal_bytes() -> None:
    content = packing.packed().content
    packing.packed.cache_clear()
    assert packing.packed().content == content
    assert "__main__.py" in zipfile.ZipFile(io.BytesIO(content)).namelist()


# --- files ---------------------------------------------------------------------------------------------


def test_a_file_that_was_cut_goes_on_where_it_was_and_one_that_changed_is_forgotten(tmp_path: Path) -> None:
    files, content = Files(tmp_path / "agent"), b"weights" * 1000
    sha256 = hashlib.sha256(content).hexdigest()
    assert files.have(sha256) == 0
    files.append(sha256, 0, content[:3000])
    assert files.have(sha256) == 3000
    with pytest.raises(FileFault, match="position 0 of a file of which 3000 are there"):
        files.append(sha256, 0, content)
    files.append(sha256, 3000, content[3000:])
    files.finish(sha256)
    assert files.have(sha256) is None
    assert files.path(sha256).read_bytes() == content

    other = hashlib.sha256(b"other").hexdigest()
    files.append(other, 0, content)
    with pytest.raises(FileFault, match="it was changed on its way"):
        files.finish(other)
    assert files.have(other) == 0


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b"])
def test_no_path_leaves_an_artifact(tmp_path: Path, name: str) -> None:
    files = Files(tmp_path / "agent")
    sha256 = hashlib.sha256(b"x").hexdigest()
    files.append(sha256, 0, b"x")
    files.finish(sha256)
    with pytest.raises(FileFault, match="leaves the artifact's folder"):
        files.artifact(sha256, {name: sha256, "other": sha256})
    with pytest.raises(FileFault, match="is not a sha256"):
        files.have("../../.ssh/authorized_keys")


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    files = Files(tmp_path / "agent")
    hashes = []
    for letter in (b"a", b"b", b"c"):
        hashes.append(hashlib.sha256(letter * 100).hexdigest())
        files.append(hashes[-1], 0, letter * 100)
        files.finish(hashes[-1])
        files.have(hashes[0])  # the first is used all the time
    assert files.bound(200) == 100
    assert [files.have(sha256) is None for sha256 in hashes] == [True, False, True]


def test_what_is_no_message_is_refused() -> None:
    assert receive(io.BytesIO(b"")) is None
    for line in (b"hello\n", b"[1]\n", b'{"payload": -1}\n', b'{"payload": 99999999999}\n', b'{"payload": 10}\nabc'):
        with pytest.raises(BrokenWire):
            receive(io.BytesIO(line))


# --- sensors -------------------------------------------------------------------------------------------


def board(root: Path, files: dict[str, str]) -> Sensors:
    """A board that shows these files."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Sensors(root, power="/sys/bus/i2c/ina/power1_input")


def test_a_board_says_what_its_files_say(tmp_path: Path) -> None:
    sensors = board(
        tmp_path,
        {
            "sys/class/thermal/thermal_zone0/temp": "61300\n",
            "sys/class/thermal/thermal_zone1/temp": "48000\n",
            "sys/class/thermal/cooling_device0/type": "thermal-cpufreq-0\n",
            "sys/class/thermal/cooling_device0/cur_state": "2\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2400000\n",
            "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "1500000\n",
            "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "4\n",
            "proc/meminfo": "MemTotal: 8000 kB\nMemAvailable: 2048 kB\n",
            "sys/bus/i2c/ina/power1_input": "5000000\n",
        },
    )
    now = sensors.now()
    assert now["temperature_c"] == pytest.approx(61.3)
    assert now["frequency_mhz"] == 1500
    assert (now["throttled"], now["throttle_events"]) == (True, 4)
    assert now["free_memory_bytes"] == 2048 * 1024
    assert sensors.watts() == 5


def test_what_a_board_does_not_say_is_unknown_and_no_guess(tmp_path: Path) -> None:
    now = Sensors(tmp_path).now()
    assert {name: value for name, value in now.items() if value is not None} == {}


def test_energy_is_what_a_counter_gained_or_power_over_time(tmp_path: Path) -> None:
    board(tmp_path / "x86", {"sys/class/powercap/intel-rapl:0/energy_uj": "1000000\n"})
    watch = Watch(Sensors(tmp_path / "x86"))
    board(tmp_path / "x86", {"sys/class/powercap/intel-rapl:0/energy_uj": "4500000\n"})
    assert watch.joules() == pytest.approx(3.5)

    metered = Watch(board(tmp_path / "pi", {"sys/bus/i2c/ina/power1_input": "5000000\n"}))
    metered.ended.wait(0.4)
    joules, seconds = metered.joules(), 0.4
    assert joules is not None
    assert joules / 5 >= seconds
    assert Watch(Sensors(tmp_path / "nothing")).joules() is None
    named = Watch(Sensors(tmp_path / "x86", power="/sys/bus/i2c/ina/power1_input"))
    assert named.joules() is None, "the sensor that is named is not there, and the processor's counter is another"
