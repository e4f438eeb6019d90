"""Installing emulated CPUs: with real packages and wheels, made here, from an apt and a qemu that stand in.

What the real ones give is in test_emulators.py, on a machine that has them.
"""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge_assets.cli import main
from edge_assets.devices import emulators
from edge_assets.devices.emulators import Record, installed, runtimes_here
from edge_assets.devices.installing import MICROCONTROLLER_FILES, install
from edge_assets.errors import EdgeAssetsError, MissingTool, UnknownName
from tests.conftest import ROOT

ARM = ["cortex-a72", "cortex-a76", "arm-max"]
# gives what was made for the tests: the packages of `install`, the one of `download`
APT = """#!/bin/sh
echo "$@" >> "$PACKAGES/calls"
for word in "$@"; do
  case "$word" in
    update) if test -e "$PACKAGES/offline"; then echo "E: no mirror answers"; exit 100; fi;;
    download) cp "$PACKAGES"/qemu-user-static_*.deb .;;
    install)
      if test -e "$PACKAGES/hangs"; then touch "$PACKAGES/reached"; sleep 600; fi
      archives=$(sed -n 's|^Dir::Cache "\\(.*\\)";|\\1|p' "$2")/archives
      cp "$PACKAGES"/python*.deb "$archives";;
  esac
done
"""
# runs this machine's Python where the real one runs the emulated
EMULATE = f"""#!/bin/sh
if test "$1" = --version; then echo "qemu-aarch64 version 7.2.99 (Debian 1:7.2)"; exit 0; fi
while test "$1" != -c; do shift; done
shift
exec {sys.executable} -c '
import platform, sys
platform.machine = lambda: "aarch64"
exec(sys.argv.pop(1))' "$@"
"""


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Debian packages and wheels."""
    folder = tmp_path_factory.mktemp("mirror")
    debian(folder, "qemu-user-static", "1%3a7.2_amd64", {"usr/bin/qemu-aarch64-static": EMULATE})
    files: dict[str, str | Path] = {
        "usr/bin/python3.11": "an interpreter for ARM",
        "usr/lib/python3.11/os.py": "",
        "lib/ld-linux-aarch64.so.1": "a loader",
        "usr/share/doc/python3.11/copyright": "nobody reads it here",
        "usr/lib/python3.11/sitecustomize.py": Path("/etc/python3.11/sitecustomize.py"),
    }
    debian(folder, "python3.11-minimal", "3.11.2-6_arm64", files)
    for name, number in runtimes_here().items():
        wheel(folder, name, number)
    return folder


@pytest.fixture
def packages(mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mirror and an index of this test's own, by which an installation takes a second or two."""
    folder = tmp_path / "packages"
    folder.mkdir()
    for file in (*mirror.glob("*.deb"), *mirror.glob("*.whl")):
        (folder / file.name).hardlink_to(file)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "apt-get").write_text(APT)
    (tools / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("PACKAGES", str(folder))
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(folder), "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("EDGE_ASSETS_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("EDGE_ASSETS_EMULATORS", raising=False)
    return folder


def debian(folder: Path, name: str, version: str, files: dict[str, str | Path]) -> None:
    """A package of these files, links where the content is a path."""
    tree = folder / f"{name}-tree"
    for path, content in files.items():
        file = tree / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            file.symlink_to(content)
        else:
            file.write_text(content)
            file.chmod(0o755)
    control = tree / "DEBIAN" / "control"
    control.parent.mkdir()
    number, architecture = version.replace("%3a", ":").split("_")
    control.write_text(
        f"Package: {name}\nVersion: {number}\nArchitecture: {architecture}\n"
        f"Maintainer: tests <tests@example.com>\nDescription: of tests\n"
    )
    package = folder / f"{name}_{version}.deb"
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", "-Znone", tree, package], check=True)


def wheel(folder: Path, name: str, number: str, code: str = "") -> None:
    """A wheel for ARM of a runtime that runs `code` when it is imported, and does nothing else."""
    module = name.replace("-", "_")
    info = f"{module}-{number}.dist-info"
    with zipfile.ZipFile(folder / f"{module}-{number}-cp311-cp311-manylinux_2_27_aarch64.whl", "w") as archive:
        archive.writestr(f"{module}/__init__.py", code)
        archive.writestr(f"{module}/interpreter.py", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: false\n")
        archive.writestr(f"{info}/RECORD", "")


def test_all_cpus_of_an_architecture_come_at_once_and_stay(packages: Path) -> None:
    said: list[str] = []
    assert install(["cortex-a76"], said.append) == ARM
    found = installed("cortex-a72")
    assert found.record.qemu == "7.2.99"
    assert found.record.runtimes == runtimes_here()
    assert found.record.packages == {"python3.11-minimal": "3.11.2-6"}
    assert "trying arm-max" in said
    sysroot = found.folder / "sysroot"
    files = sorted(str(path.relative_to(sysroot)) for path in sysroot.rglob("*") if path.is_file())
    assert files == ["usr/bin/python3.11", "usr/lib/ld-linux-aarch64.so.1", "usr/lib/python3.11/os.py"]
    calls = (packages / "calls").read_text()
    assert install(["cortex-a72"], said.append) == []
    assert said[-1] == "cortex-a72 is installed"
    assert (packages / "calls").read_text() == calls, "nothing was fetched again"


def test_each_cpu_has_its_own_cpuinfo_and_shares_the_rest(packages: Path) -> None:
    install(["arm-max"], print)
    roots = {name: Path(command_of(name)["-L"]) for name in ARM}
    assert "asimddp" not in (roots["cortex-a72"] / "proc" / "cpuinfo").read_text()
    assert "asimddp" in (roots["cortex-a76"] / "proc" / "cpuinfo").read_text()
    assert "i8mm" in (roots["arm-max"] / "proc" / "cpuinfo").read_text()
    interpreters = {(root / "usr/bin/python3.11").resolve() for root in roots.values()}
    assert len(interpreters) == 1
    assert all((root / "lib" / "ld-linux-aarch64.so.1").is_file() for root in roots.values())


def command_of(name: str) -> dict[str, str]:
    """What follows each word of an emulated CPU's command."""
    command = installed(name).command("script.py")
    return dict(pairwise(command))


def test_an_installation_of_other_versions_is_none_and_is_made_anew(packages: Path) -> None:
    install(["cortex-a76"], print)
    folder = emulators.folder_of("aarch64")
    record = emulators.read_record(folder)
    assert record is not None
    others = {**record.runtimes, "onnxruntime": "1.0.0"}
    Record(record.layout, record.qemu, record.python, others).write(folder)
    with pytest.raises(MissingTool, match="onnxruntime 1.0.0, this environment .*: edge-assets emulator install"):
        installed("cortex-a76")
    said: list[str] = []
    assert install(["cortex-a76"], said.append) == ARM
    assert said[0].startswith("cortex-a76 is installed anew: it has onnxruntime 1.0.0")
    assert installed("cortex-a76")
    assert sorted(path.name for path in folder.parent.iterdir()) == [".lock", "aarch64"]


def test_a_record_that_says_nothing_is_no_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_ASSETS_EMULATORS", str(tmp_path))
    record = emulators.folder_of("aarch64") / "emulator.json"
    record.parent.mkdir()
    Record(emulators.LAYOUT, "7.2", "3.11", runtimes_here()).write(record.parent)
    good = record.read_text()
    assert installed("cortex-a76")
    for content in ("", "{}", "[1]", '{"layout": 99}', good[:-9], good.replace('"qemu": "7.2"', '"qemu": 7')):
        record.write_text(content)
        with pytest.raises(MissingTool, match="cortex-a76 is not installed: edge-assets emulator install cortex-a76"):
            installed("cortex-a76")


def test_what_apt_says_is_told_and_nothing_is_left(packages: Path) -> None:
    (packages / "offline").touch()
    with pytest.raises(EdgeAssetsError, match="apt-get update failed.*\nE: no mirror answers"):
        install(ARM, print)
    assert left() == [".lock"]


def test_what_pip_says_is_told_and_nothing_is_left(packages: Path) -> None:
    next(packages.glob("onnxruntime-*.whl")).unlink()
    with pytest.raises(EdgeAssetsError, match="runtimes for ARM could not be had: pip failed(.|\n)*onnxruntime"):
        install(ARM, print)
    assert left() == [".lock"]


def test_runtimes_that_do_not_run_are_no_installation(packages: Path) -> None:
    file = next(packages.glob("numpy-*.whl"))
    file.unlink()
    wheel(packages, "numpy", runtimes_here()["numpy"], "raise ImportError('illegal instruction')")
    with pytest.raises(EdgeAssetsError, match="cortex-a72 does not run its runtimes(.|\n)*illegal instruction"):
        install(ARM, print)
    assert left() == [".lock"]


def left() -> list[str]:
    """What is in the folder of the emulated CPUs."""
    return sorted(path.name for path in emulators.folder_of("aarch64").parent.iterdir())


def test_a_killed_installation_leaves_nothing_that_counts_and_the_next_clears_up(packages: Path) -> None:
    (packages / "hangs").touch()
    command = [sys.executable, "-m", "edge_assets.cli", "emulator", "install", "cortex-a76"]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True)
    while not (packages / "reached").exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert any(name.startswith("new-") for name in left())
    with pytest.raises(MissingTool):
        installed("cortex-a76")
    (packages / "hangs").unlink()
    install(["cortex-a76"], print)
    assert left() == [".lock", "aarch64"]


def test_a_system_without_apt_is_told_so(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(packages))
    with pytest.raises(MissingTool, match="apt-get is not installed: .* Debian"):
        install(ARM, print)


def test_a_full_disk_is_told_before_anything_is_fetched(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_assets.devices.installing.ROOM", 2**60)
    with pytest.raises(EdgeAssetsError, match="MiB of free space.*EDGE_ASSETS_EMULATORS"):
        install(ARM, print)
    assert not (packages / "calls").exists()


def test_an_unknown_cpu_is_named_with_the_nearest() -> None:
    for use in (installed, lambda name: install([name], print), lambda name: emulators.remove([name])):
        with pytest.raises(UnknownName, match="unknown emulated CPU 'cortex-a77'. Did you mean cortex-a7"):
            use("cortex-a77")


def test_the_commands_install_list_and_remove(packages: Path) -> None:
    assert "cortex-a76" in run("list")
    assert "not installed" in run("list")
    assert "no emulated CPU is installed" in run("remove")
    assert "installed: cortex-a72, cortex-a76, arm-max" in run("install", "cortex-a76")
    listed = run("list")
    assert "raspberry-pi-5" in listed
    assert "aarch64: qemu 7.2.99, Python 3.11, " in listed
    assert f"numpy {runtimes_here()['numpy']}" in listed
    assert "removed cortex-a72, cortex-a76, arm-max: " in run("remove", "arm-max")
    with pytest.raises(MissingTool):
        installed("cortex-a76")


def test_microcontrollers_come_and_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_ASSETS_EMULATORS", str(tmp_path))
    folder = emulators.folder_of("cortex-m")
    folder.mkdir()
    Record(emulators.LAYOUT, qemu="7.2.99", gcc="12.2.1").write(folder)
    assert emulators.state("cortex-m7").lack is None
    assert "cortex-m: qemu 7.2.99, gcc 12.2.1; " in run("list")
    assert "removed cortex-m4, cortex-m7, cortex-m55: " in run("remove", "cortex-m55")
    assert emulators.state("cortex-m4").lack == "not installed"


def test_of_debians_packages_a_microcontroller_takes_what_compiles_and_emulates() -> None:
    kept = (
        "usr/bin/qemu-system-arm",
        "usr/bin/arm-none-eabi-gcc-12.2.1",
        "usr/lib/arm-none-eabi/bin/ld.bfd",
        "usr/lib/gcc/arm-none-eabi/12.2.1/cc1",
        "usr/lib/gcc/arm-none-eabi/12.2.1/include/stdint.h",
        "usr/lib/gcc/arm-none-eabi/12.2.1/thumb/v8.1-m.main+mve/hard/libgcc.a",
        "usr/lib/x86_64-linux-gnu/libfdt.so.1",
        "lib/aarch64-linux-gnu/libz.so.1",
    )
    left_out = (
        "usr/bin/arm-none-eabi-g++",
        "usr/lib/gcc/arm-none-eabi/12.2.1/cc1plus",
        "usr/lib/gcc/arm-none-eabi/12.2.1/thumb/v7-a/hard/libgcc.a",
        "usr/share/doc/qemu-system-arm/copyright",
    )
    assert all(MICROCONTROLLER_FILES.fullmatch(path) for path in kept)
    assert not any(MICROCONTROLLER_FILES.fullmatch(path) for path in left_out)


def run(*arguments: str) -> str:
    """What `edge-assets emulator ...` prints."""
    result = CliRunner().invoke(main, ["emulator", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


def test_another_folder_can_hold_them(packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_ASSETS_EMULATORS", str(tmp_path / "shared"))
    install(["cortex-a76"], print)
    record = json.loads((tmp_path / "shared" / "aarch64" / "emulator.json").read_text())
    assert record["size_bytes"] > 0
