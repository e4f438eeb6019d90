"""Installing emulated CPUs: qemu and a Python for ARM from Debian's packages, the runtimes from the index's wheels.

Any account can: nothing is installed into the system. What is installed is tried on each CPU before it counts, and
takes its place in one step, so that an interrupted installation leaves nothing.
"""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from edge_assets.devices import debian, microcontrollers
from edge_assets.devices.debian import FETCHING, Apt
from edge_assets.devices.emulators import (
    CPUS,
    LAYOUT,
    QEMU,
    SITE,
    SYSROOT,
    Emulator,
    Record,
    changing,
    cpus_of,
    folder_of,
    known,
    runs_here,
    runtimes_here,
    state,
    this_architecture,
)
from edge_assets.errors import EdgeAssetsError, MissingTool, log_end
from edge_assets.settings import home
from edge_assets.targets.emulation import CORTEX_M, EMULATABLE, EMULATED, MICROCONTROLLERS, Emulatable, EmulatedCpu
from resources import folders
from resources.workspaces import disk_errors

ROOM = 2**30  # free bytes that an installation for ARM needs while it works; what stays is about a third
TRYING = 600  # seconds for importing the runtimes on an emulated CPU: usually 10
# Python, and the libraries that its packages for ARM link to
PACKAGES = ("python3-minimal:arm64", "libpython3-stdlib:arm64", "libgomp1:arm64", "libstdc++6:arm64")
KEPT = ("lib", "usr/lib", "usr/bin/python3")  # of the packages, what begins so
# what compiles for microcontrollers and emulates them, and what of the packages that takes, which has hard links
MICROCONTROLLER_PACKAGES = ("qemu-system-arm", "gcc-arm-none-eabi")
MICROCONTROLLER_FILES = re.compile(
    r"usr/bin/(qemu-system-arm|arm-none-eabi-(gcc[0-9.-]*|as|ld.*|size|ar|nm|objcopy|objdump|ranlib|readelf|strip))|"
    r"usr/lib/arm-none-eabi/(bin/.*|lib/ldscripts/.*)|"
    r"usr/lib/gcc/arm-none-eabi/[^/]+/(cc1|collect2|lto-wrapper|liblto_plugin\.so|include.*|"
    r"thumb/(v7e-m|v8-m\.main|v8\.1-m\.main)\+[a-z]+/hard/libgcc\.a)|(usr/)?lib/[^/]+-linux-gnu/[^/]+\.so.*"
)
OLDEST_GLIBC, NEWEST_GLIBC = 17, 36  # minor versions that a wheel may ask for; Debian 12 has 2.36
# what is imported by another name than it is installed by
MODULES = {"ai-edge-litert": "ai_edge_litert.interpreter"}
TRY = """
import importlib, importlib.metadata, json, platform, sys
sys.dont_write_bytecode = False
for module in sys.argv[1].split(","):
    importlib.import_module(module)
versions = {name: importlib.metadata.version(name) for name in sys.argv[2].split(",")}
print(json.dumps({"architecture": platform.machine(), "versions": versions}))
"""
Say = Callable[[str], None]


def install(names: Sequence[str], say: Say) -> list[str]:
    """Install the CPUs of these names, or all that this machine can have; those of one installation come together.

    What is there in this environment's versions stays. Returns the names of what was installed. Raises UnknownName,
    MissingTool, and EdgeAssetsError with the end of what apt or pip said.
    """
    if sys.platform != "linux":
        raise EdgeAssetsError("CPUs are emulated on Linux alone: on macOS and Windows, in a container")
    installations: list[str] = []
    for cpu in _chosen(names):
        found = state(cpu.name)
        if found.lack is None:
            say(f"{cpu.name} is installed")
        elif cpu.installation not in installations:
            installations.append(cpu.installation)
            if found.record:
                say(f"{cpu.name} is installed anew: {found.lack}")
    if installations:
        with disk_errors(str(home().emulators)):
            _install(installations, say)
    done = []
    for installation in installations:
        done += [cpu.name for cpu in cpus_of(installation)]
    return done


def _chosen(names: Sequence[str]) -> list[Emulatable]:
    """The CPUs of these names, else all that can be emulated here. Raises EdgeAssetsError for one that cannot."""
    if not names:
        return [cpu for cpu in EMULATABLE.values() if runs_here(cpu)]
    chosen = []
    for name in names:
        cpu = known(name)
        if not runs_here(cpu):
            raise EdgeAssetsError(
                f"{name} runs this environment's own Python, which is for {this_architecture()}: it can be emulated "
                f"on {cpu.architecture} alone"
            )
        chosen.append(cpu)
    return chosen


def _install(installations: Sequence[str], say: Say) -> None:
    with changing(home().emulators) as work:
        free = shutil.disk_usage(work).free
        if set(installations) != {"x86_64"} and free < ROOM:
            raise EdgeAssetsError(
                f"{home().emulators} has {free / 2**20:.0f} MiB of free space, and the installation needs "
                f"{ROOM / 2**20:.0f}: EDGE_ASSETS_EMULATORS names another folder"
            )
        say("asking Debian's mirror which packages there are")
        own_and_foreign = [this_architecture()]
        if "aarch64" in installations and "aarch64" not in own_and_foreign:
            own_and_foreign.append("aarch64")
        apt = debian.own_apt(work / "apt", own_and_foreign)
        for installation in installations:
            folder = work / installation
            folder.mkdir()
            if installation == CORTEX_M:
                _fill_for_microcontrollers(folder, apt, say)
            else:
                _fill(folder, installation, apt, say)
            folders.replace(folder, folder_of(installation))


def _fill(folder: Path, architecture: str, apt: Apt, say: Say) -> None:
    """All of one architecture, tried."""
    say(f"qemu for {architecture}")
    _add_qemu(folder, architecture, apt)
    record = Record(
        layout=LAYOUT,
        qemu=_qemu_version(folder / QEMU),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
    )
    if architecture == "aarch64":
        record = _add_python(folder, record, apt, say)
    for cpu in EMULATED.values():
        if cpu.architecture == architecture:
            _add_root(folder / CPUS / cpu.name, cpu)
            say(f"trying {cpu.name}")
            _try(Emulator(cpu, folder, record))
    record = replace(record, size_bytes=folders.size_of(folder))
    record.write(folder)


def _fill_for_microcontrollers(folder: Path, apt: Apt, say: Say) -> None:
    """What compiles for microcontrollers and emulates them, tried."""
    say("qemu and a compiler for microcontrollers, from Debian's packages")
    versions = {}
    for package in apt.with_dependencies(MICROCONTROLLER_PACKAGES):
        name, number, _ = package.stem.split("_")
        if name != "libc6":  # of another version it would not fit the system's loader
            debian.extract(package, folder / SYSROOT, lambda path: MICROCONTROLLER_FILES.fullmatch(path) is not None)
            versions[name] = number.replace("%3a", ":")
    tools = microcontrollers.Tools(folder)
    found = tools.versions()
    for cpu in MICROCONTROLLERS.values():
        say(f"trying {cpu.name}")
        microcontrollers.attempt(cpu, tools)
    record = Record(layout=LAYOUT, qemu=found["qemu"], gcc=found["gcc"], packages=versions)
    record = replace(record, size_bytes=folders.size_of(folder))
    record.write(folder)


def _add_qemu(folder: Path, architecture: str, apt: Apt) -> None:
    """The one program of qemu's package, for this machine's own architecture, that emulates `architecture`.

    It is called qemu-aarch64-static in Debian 12 and qemu-aarch64 later, in another package.
    """
    programs = {"qemu-user-static": f"qemu-{architecture}-static", "qemu-user": f"qemu-{architecture}"}
    for package, program in programs.items():
        path = f"usr/bin/{program}"
        unpacked = folder / package
        debian.extract(apt.download(package), unpacked, path.__eq__)
        found = unpacked / path
        if found.is_file() and not found.is_symlink():
            found.rename(folder / QEMU)
            shutil.rmtree(unpacked)
            return
        shutil.rmtree(unpacked, ignore_errors=True)
    raise EdgeAssetsError(f"Debian's {' and '.join(programs)} have no program that emulates {architecture}")


def _qemu_version(program: Path) -> str:
    """Such as "7.2.22"."""
    printed = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    return printed.split("version ")[1].split()[0]


def _add_python(folder: Path, record: Record, apt: Apt, say: Say) -> Record:
    """A Python for ARM, and this environment's runtimes for it."""
    say("Python for ARM, from Debian's packages")
    sysroot = folder / SYSROOT
    packages = _add_sysroot(sysroot, apt)
    python = _python_version(sysroot)
    runtimes = runtimes_here()
    wheels = [f"{name}=={number}" for name, number in runtimes.items()]
    say(f"{', '.join(wheels)} for ARM, from the package index")
    _add_wheels(folder / SITE, python, wheels)
    return replace(record, python=python, runtimes=runtimes, packages=packages)


def _add_sysroot(sysroot: Path, apt: Apt) -> dict[str, str]:
    """Python and its libraries as Debian lays them out. Returns the versions of the packages."""
    (sysroot / "usr" / "lib").mkdir(parents=True)
    (sysroot / "lib").symlink_to("usr/lib")  # as in a Debian system; packages have files below both
    versions = {}
    for package in apt.with_dependencies(PACKAGES):
        name, number, architecture = package.stem.split("_")
        if architecture in ("arm64", "all"):
            debian.extract(package, sysroot, lambda path: path.startswith(KEPT))
            versions[name] = number.replace("%3a", ":")
    return versions


def _python_version(sysroot: Path) -> str:
    """Such as "3.11"."""
    for program in (sysroot / "usr" / "bin").glob("python3.*"):
        return program.name.removeprefix("python")
    raise EdgeAssetsError(f"Debian's {', '.join(PACKAGES)} brought no program python3.*")


def _add_wheels(site: Path, python: str, wheels: Sequence[str]) -> None:
    """Wheels for ARM, such as "numpy==2.4.6". Raises MissingTool without pip, EdgeAssetsError with what pip said."""
    if importlib.util.find_spec("pip") is None:
        raise MissingTool("pip", None, f"{sys.executable} -m ensurepip")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    command += ["--target", str(site), "--only-binary", ":all:", "--python-version", python, "--implementation", "cp"]
    for glibc in range(NEWEST_GLIBC, OLDEST_GLIBC - 1, -1):
        command += ["--platform", f"manylinux_2_{glibc}_aarch64"]
    command += ["--platform", "manylinux2014_aarch64"]
    command += wheels
    done = debian.finished(command, site.parent, FETCHING)
    if done.returncode != 0:
        raise EdgeAssetsError(f"the runtimes for ARM could not be had: pip failed. {log_end(done.stdout)}")


def _add_root(root: Path, cpu: EmulatedCpu) -> None:
    """Where a CPU's programs look first: /proc/cpuinfo of its own, which no two CPUs share, and ARM's common files."""
    (root / "proc").mkdir(parents=True)
    (root / "proc" / "cpuinfo").write_text(cpu.cpuinfo())
    if cpu.architecture != "aarch64":
        return
    (root / "usr").symlink_to(Path("..", "..", SYSROOT, "usr"))
    (root / "lib").symlink_to(Path("usr", "lib"))


def _try(emulator: Emulator) -> None:
    """Imports every runtime on the CPU, which compiles it too. Raises EdgeAssetsError with what went wrong."""
    runtimes = emulator.record.runtimes or runtimes_here()
    modules = [MODULES.get(name, name) for name in runtimes]
    command = emulator.command("-c", TRY, ",".join(modules), ",".join(runtimes))
    tried = debian.finished(command, emulator.folder, TRYING)
    if tried.returncode != 0:
        raise EdgeAssetsError(
            f"{emulator.name} does not run its runtimes (exit code {tried.returncode}). {log_end(tried.stdout)}"
        )
    (answer,) = [line for line in tried.stdout.splitlines() if line.startswith("{")]  # runtimes may print as well
    found = json.loads(answer)
    if found != {"architecture": emulator.cpu.architecture, "versions": dict(runtimes)}:
        raise EdgeAssetsError(f"{emulator.name} does not run what was installed: {found}")
