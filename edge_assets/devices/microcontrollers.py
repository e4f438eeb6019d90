"""Microcontrollers that qemu emulates: a full-int8 network as C, compiled for the core, run on a board without a system.

What it computes counts, and so do the bytes that the linker and the painted stack say. Instructions are counted by
qemu; how long they would take on a chip it does not know, and nobody is told a time.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edge_assets.core.evidence import Footprint
from edge_assets.core.session import Feeds, Loadable
from edge_assets.core.sizes import MIB
from edge_assets.errors import EdgeAssetsError, MissingTool, Refused, UnknownName, log_end
from edge_assets.later import np
from edge_assets.targets.emulation import MICROCONTROLLERS, Microcontroller, Region
from edge_assets.targets.machine import Machine
from edge_assets.toolchains.litert import c_code
from edge_assets.toolchains.litert.c_array import FILE as C_ARRAY
from edge_assets.toolchains.litert.c_array import read_array
from edge_assets.toolchains.litert.session import Port

RUNTIME = "tflite_micro"  # whose artifacts become C
FIRMWARE = Path(__file__).with_name("firmware")
QEMU, COMPILER, SIZE = "qemu-system-arm", "arm-none-eabi-gcc", "arm-none-eabi-size"
PACKAGES = "qemu-system-arm gcc-arm-none-eabi"  # Debian's, of the three
INSTALL = f"sudo apt-get install {PACKAGES}"
FLAGS = ("-mthumb", "-mfloat-abi=hard", "-std=c99", "-O2", "-ffreestanding", "-ffunction-sections", "-Wall", "-Werror")
# for what the compiler calls by itself, which is in main.c
PLAIN = ("-fno-tree-loop-distribute-patterns",)
LINKING = ("-nostdlib", "-Wl,--gc-sections", "-Wl,--no-warn-rwx-segments")
SECONDS = 3600  # of a run: some seconds a sample, for a network of some ten million multiplications
SYMBOL = "network"
DTYPES = {"int8_t": "int8", "float": "float32"}


@dataclass(frozen=True)
class State:
    """Whether a microcontroller can be emulated."""

    cpu: Microcontroller
    lack: str | None  # the program that is not here; None: it can


def state(name: str) -> State:
    """Whether the microcontroller of that name can be emulated here. Raises UnknownName."""
    if name not in MICROCONTROLLERS:
        raise UnknownName("emulated microcontroller", name, MICROCONTROLLERS)
    for program in (QEMU, COMPILER, SIZE):
        if shutil.which(program) is None:
            return State(MICROCONTROLLERS[name], f"{program} is not installed")
    return State(MICROCONTROLLERS[name], None)


def emulated(name: str) -> Microcontroller:
    """The microcontroller of that name. Raises UnknownName, and MissingTool with the command that installs it."""
    found = state(name)
    if found.lack:
        raise MissingTool(f"what emulates a microcontroller ({found.lack})", None, INSTALL)
    return found.cpu


@cache
def versions() -> Mapping[str, str]:
    """Of qemu and the compiler, which decide what is computed and how large it is."""
    found = {}
    for name, program in {"qemu": QEMU, "gcc": COMPILER}.items():
        printed = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=60)
        (found[name],) = re.findall(r"\d+\.\d+\.\d+", printed.stdout.splitlines()[0])[-1:]
    return found


def machine(cpu: Microcontroller) -> Machine:
    """What evidence says of who computed it."""
    return Machine(
        cpu=f"{cpu.cpu} (qemu {versions()['qemu']}, {cpu.board})",
        architecture=cpu.architecture,
        cores=1,
        instruction_sets=cpu.instruction_sets,
        memory_bytes=cpu.ram.length,
        system="none (emulated)",
        board=None,
        governor=None,
    )


# --- firmware ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Firmware:
    """A network, compiled and linked for a core."""

    cpu: Microcontroller
    program: c_code.Program
    folder: Path

    def run(self, samples: Mapping[str, "np.ndarray"]) -> tuple[dict[str, "np.ndarray"], Footprint]:
        """Outputs of samples, both as the file has them, and what one inference took.

        Raises EdgeAssetsError with what qemu printed where it ended early.
        """
        count = len(next(iter(samples.values())))
        with (self.folder / "samples.bin").open("wb") as file:
            for i in range(count):
                for port in self.program.inputs:
                    file.write(np.ascontiguousarray(samples[port.name][i], DTYPES[port.c_type]).tobytes())
        printed = self._emulate()
        found = dict(re.findall(r"^(\w+) (\d+)$", printed, re.MULTILINE))
        if int(found.get("samples", 0)) != count:
            raise EdgeAssetsError(f"{self.cpu.cpu} in qemu did not run all samples: {log_end(printed)}")
        nanoseconds = int(found["ticks"]) * 10**9 // self.cpu.clock_hz  # of which qemu counts one an instruction
        return self._results(count), self._footprint(int(found["stack"]), nanoseconds // count)

    def _emulate(self) -> str:
        """What the firmware prints."""
        command = [QEMU, "-M", self.cpu.board, "-display", "none", "-monitor", "none", "-serial", "none"]
        command += ["-semihosting-config", "enable=on,target=native", "-icount", "shift=0", "-kernel", "firmware.elf"]
        return _finished(command, self.folder, f"{self.cpu.cpu} in qemu")

    def _results(self, count: int) -> dict[str, "np.ndarray"]:
        content = (self.folder / "results.bin").read_bytes()
        found: dict[str, list[np.ndarray]] = {port.name: [] for port in self.program.outputs}
        place = 0
        for _ in range(count):
            for port in self.program.outputs:
                values = np.frombuffer(content, DTYPES[port.c_type], port.elements, place)
                found[port.name].append(values.reshape(port.shape))
                place += values.nbytes
        return {name: np.stack(arrays) for name, arrays in found.items()}

    def _footprint(self, stack: int, instructions: int) -> Footprint:
        printed = _finished([SIZE, "-A", "firmware.elf"], self.folder, SIZE)
        sizes = {name: int(size) for name, size in re.findall(r"^\.(\w+) +(\d+)", printed, re.MULTILINE)}
        return Footprint(
            flash_bytes=sizes["network_code"] + sizes["network_constants"],
            arena_bytes=sizes["network_ram"],
            stack_bytes=stack,
            instructions=instructions,
            how=f"flash and arena from the linker (gcc {versions()['gcc']} -O2, plain C kernels), stack by painting it, "
            f"instructions counted by qemu {versions()['qemu']}; no time follows from them",
        )


def build(cpu: Microcontroller, program: c_code.Program, folder: Path) -> Firmware:
    """Compile and link in a folder. Raises Refused where the network does not fit the board's memory."""
    program.write(folder)
    for name in ("main.c", "board.ld"):
        shutil.copy(FIRMWARE / name, folder / name)
    (folder / "samples.h").write_text(_samples_header(program))
    (folder / "memory.ld").write_text(_memory(cpu))
    compile_for = [COMPILER, f"-mcpu={cpu.core}", *FLAGS]
    _finished([*compile_for, "-c", c_code.SOURCE, "-o", "network.o"], folder, COMPILER)
    _finished([*compile_for, *PLAIN, "-c", "main.c", "-o", "main.o"], folder, COMPILER)
    link = [*compile_for, *LINKING, "-T", "memory.ld", "-T", "board.ld", "network.o", "main.o", "-lgcc"]
    try:
        _finished([*link, "-o", "firmware.elf"], folder, COMPILER)
    except EdgeAssetsError as error:
        if "will not fit" in str(error) or "overflowed" in str(error) or "does not fit" in str(error):
            constants = program.constant_bytes / MIB
            arena = program.arena_bytes / MIB
            raise Refused(
                f"the network does not fit the emulated board {cpu.board}: {constants:.1f} MiB of constants, "
                f"{arena:.1f} MiB of arena"
            ) from None
        raise
    return Firmware(cpu, program, folder)


def _memory(cpu: Microcontroller) -> str:
    def line(name: str, region: Region) -> str:
        return f"  {name} : ORIGIN = {region.origin:#x}, LENGTH = {region.length:#x}"

    return "\n".join(
        ["MEMORY", "{", line("code", cpu.code), line("constants", cpu.constants), line("ram", cpu.ram), "}", ""]
    )


def _samples_header(program: c_code.Program) -> str:
    """One sample's buffers, and the call."""
    lines = ['#include "network.h"', "", "typedef struct {", "    void *data;", "    uint32_t bytes;", "} Buffer;", ""]
    names = []
    for kind, ports in {"inputs": program.inputs, "outputs": program.outputs}.items():
        buffers = [f"{kind}_{position}" for position in range(len(ports))]
        for buffer, port in zip(buffers, ports, strict=True):
            lines.append(f"static {port.c_type} {buffer}[{port.elements}];")
        entries = ", ".join(f"{{{buffer}, sizeof {buffer}}}" for buffer in buffers)
        lines.append(f"static const Buffer {kind}[] = {{{entries}}};")
        names += buffers
    lines += ["", f"static void invoke(void) {{ {program.symbol}_invoke({', '.join(names)}); }}", ""]
    return "\n".join(lines)


def _finished(command: Sequence[str], folder: Path, what: str) -> str:
    """What a command printed. Raises EdgeAssetsError with the end of it where it failed or took too long."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise EdgeAssetsError(f"{what} took longer than {SECONDS / 60:.0f} minutes and was stopped") from None
    if done.returncode != 0:
        raise EdgeAssetsError(f"{what} failed (exit code {done.returncode}). {log_end(done.stdout)}")
    return done.stdout


# --- sessions ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class MicrocontrollerLoadable(Loadable):
    """How to open an artifact on an emulated microcontroller."""

    emulator: str

    def open(self, threads: int) -> "MicrocontrollerSession":
        """The network as firmware. Raises Refused naming an operator that has no kernel in C, MissingTool."""
        del threads  # it has one core
        return open_session(emulated(self.emulator), Path(self.path), **self.options)


class MicrocontrollerSession:
    """A network on an emulated microcontroller; samples come and go as the model takes them."""

    def __init__(self, firmware: Firmware, channels_last: Sequence[str], place: tempfile.TemporaryDirectory[str]) -> None:
        self.firmware = firmware
        self.footprint: Footprint | None = None  # of the last run
        self._inputs = _ports(firmware.program.inputs, channels_last)
        self._outputs = _ports(firmware.program.outputs, channels_last)
        self._place = place

    def run(self, feeds: Feeds) -> dict[str, "np.ndarray"]:
        """Outputs of one batch, one sample after another."""
        count = len(next(iter(feeds.values())))
        encoded: dict[str, np.ndarray] = {}
        for name, port in self._inputs.items():
            encoded[name] = np.stack([port.encode(feeds[name][i : i + 1]) for i in range(count)])
        results, self.footprint = self.firmware.run(encoded)
        outputs = {}
        for name, port in self._outputs.items():
            outputs[name] = np.concatenate([port.decode(values) for values in results[name]])
        return outputs

    def close(self) -> None:
        """Remove what was compiled."""
        self._place.cleanup()


def _ports(ports: Sequence[c_code.Port], channels_last: Sequence[str]) -> dict[str, Port]:
    found = {}
    for position, port in enumerate(ports):
        scale, zero = None, 0
        if port.affine:
            scale, zero = port.affine.scale, port.affine.zero
        dtype = np.dtype(DTYPES[port.c_type]).type
        found[port.name] = Port(position, dtype, scale, zero, port.name in channels_last)
    return found


def open_session(
    cpu: Microcontroller,
    path: Path,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    channels_last: Sequence[str] = (),
) -> MicrocontrollerSession:
    """The network of a .tflite file, or of the C array in a folder, on that core."""
    model = read_array(path / C_ARRAY) if path.is_dir() else path.read_bytes()
    program = c_code.program(model, SYMBOL, inputs, outputs)
    place = tempfile.TemporaryDirectory(prefix="edge-assets-firmware-")
    try:
        firmware = build(cpu, program, Path(place.name))
    except BaseException:
        place.cleanup()
        raise
    return MicrocontrollerSession(firmware, channels_last, place)
