"""Microcontrollers that qemu emulates: full-int8 networks as C, compiled for the core, on a board without a system.

What it computes counts, and so do the bytes that the linker and the painted stack say. Instructions are counted by
qemu; how long they would take on a chip it does not know, and nobody is told a time.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edge_assets.core.evidence import Footprint
from edge_assets.core.session import Feeds, Loadable
from edge_assets.core.sizes import MIB
from edge_assets.devices.commands import TookTooLong, finished
from edge_assets.devices.emulators import INSTALL, SYSROOT, Record, folder_of, state
from edge_assets.errors import EdgeAssetsError, MissingTool, Refused, UnknownName, log_end
from edge_assets.later import np
from edge_assets.targets.emulation import MICROCONTROLLERS, Microcontroller, Region
from edge_assets.targets.machine import Machine
from edge_assets.toolchains.litert import c_code
from edge_assets.toolchains.litert.c_array import FILE as C_ARRAY
from edge_assets.toolchains.litert.c_array import read_array
from edge_assets.toolchains.litert.fixed_point import Affine
from edge_assets.toolchains.litert.session import Port

RUNTIME = "tflite_micro"  # whose artifacts become C
FIRMWARE = Path(__file__).with_name("firmware")
QEMU, COMPILER, SIZE = "qemu-system-arm", "arm-none-eabi-gcc", "arm-none-eabi-size"
PREFIX = "edge-assets-firmware-"  # of temporary folders
VERSION = "1"  # of the C and of how it is compiled and run
FLAGS = ("-mthumb", "-mfloat-abi=hard", "-std=c99", "-O2", "-ffreestanding", "-ffunction-sections", "-Wall", "-Werror")
# for what the compiler calls by itself, which is in main.c
PLAIN = ("-fno-tree-loop-distribute-patterns",)
LINKING = ("-nostdlib", "-Wl,--gc-sections", "-Wl,--no-warn-rwx-segments")
SECONDS = 3600  # of a run: some seconds a sample, for a network of some ten million multiplications
SYMBOL = "network"
DTYPES = {"int8_t": "int8", "float": "float32"}


class FirmwareError(EdgeAssetsError):
    """A network that could not be compiled, or ended early."""


@dataclass(frozen=True)
class Tools:
    """qemu and a compiler, as Debian's packages have them below a folder."""

    folder: Path  # of the installation

    def run(self, tool: str, arguments: Sequence[str], folder: Path, what: str) -> str:
        """What a tool prints. Raises FirmwareError with the end of it where it failed or took too long."""
        root = self.folder / SYSROOT
        libraries = [str(path) for path in sorted(root.glob("usr/lib/*-linux-gnu"))]
        libraries += [str(path) for path in sorted(root.glob("lib/*-linux-gnu"))]
        try:
            done = finished(
                [str(root / "usr" / "bin" / tool), *arguments],
                folder,
                SECONDS,
                what,
                {"LD_LIBRARY_PATH": os.pathsep.join(libraries)},
            )
        except TookTooLong as error:
            raise FirmwareError(str(error)) from None
        if done.returncode != 0:
            raise FirmwareError(f"{what} failed (exit code {done.returncode}). {log_end(done.stdout)}")
        return done.stdout

    def versions(self) -> dict[str, str]:
        """Of qemu and the compiler, such as "7.2.22"."""
        found = {}
        for name, tool in {"qemu": QEMU, "gcc": COMPILER}.items():
            printed = self.run(tool, ["--version"], self.folder, tool).splitlines()[0]
            found[name] = re.findall(r"\d+\.\d+\.\d+", printed)[-1]
        return found


def emulated(name: str) -> tuple[Microcontroller, Tools]:
    """The microcontroller of that name, and what compiles for it and emulates it.

    Raises UnknownName, and MissingTool with the command that installs it.
    """
    found = state(name)
    if not isinstance(found.cpu, Microcontroller):
        raise UnknownName("emulated microcontroller", name, MICROCONTROLLERS)
    if found.lack:
        raise MissingTool(f"the emulated microcontroller {name} ({found.lack})", None, f"{INSTALL} {name}")
    return found.cpu, Tools(folder_of(found.cpu.installation))


def versions(record: Record) -> dict[str, str]:
    """Of qemu and the compiler, which decide what is computed and how large it is."""
    return {"qemu": record.qemu, "gcc": record.gcc or "unknown"}


def machine(cpu: Microcontroller, record: Record) -> Machine:
    """What evidence says of who computed it."""
    return Machine(
        cpu=f"{cpu.cpu} (qemu {record.qemu}, {cpu.board})",
        architecture=cpu.architecture,
        cores=1,
        instruction_sets=cpu.instruction_sets,
        memory_bytes=cpu.ram.length,
        system="none (emulated)",
        board=None,
        governor=None,
    )


def attempt(cpu: Microcontroller, tools: Tools) -> None:
    """Runs a network of one addition. Raises FirmwareError where it does not give the right sum."""
    affine = Affine(1.0, 0)
    port = c_code.Port("number", (1,), "int8_t", affine)
    source = f'#include "{c_code.HEADER}"\nvoid network_invoke(const int8_t *in, int8_t *out) {{ *out = *in + 1; }}\n'
    header = "#include <stdint.h>\nvoid network_invoke(const int8_t *, int8_t *);\n"
    files = {c_code.SOURCE: source, c_code.HEADER: header}
    program = c_code.Program(SYMBOL, (port,), (replace(port, name="sum"),), files, arena_bytes=0, constant_bytes=0)
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
        results, _ = build(cpu, tools, program, Path(folder)).run({"number": np.array([[41]], np.int8)})
    if results["sum"].tolist() != [[42]]:
        raise FirmwareError(f"{cpu.name} in qemu gives {results['sum'].tolist()} for 41 + 1")


# --- firmware ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Firmware:
    """A network, compiled and linked for a core."""

    cpu: Microcontroller
    tools: Tools
    program: c_code.Program
    folder: Path

    def run(self, samples: Mapping[str, "np.ndarray"]) -> tuple[dict[str, "np.ndarray"], Footprint]:
        """Outputs of samples, both as the file has them, and what one inference took.

        Raises FirmwareError with what qemu printed where it ended early.
        """
        count = len(next(iter(samples.values())))
        with (self.folder / "samples.bin").open("wb") as file:
            for i in range(count):
                for port in self.program.inputs:
                    file.write(np.ascontiguousarray(samples[port.name][i], DTYPES[port.c_type]).tobytes())
        printed = self._emulate()
        found = dict(re.findall(r"^(\w+) (\d+)$", printed, re.MULTILINE))
        if int(found.get("samples", 0)) != count:
            raise FirmwareError(f"{self.cpu.cpu} in qemu did not run all samples: {log_end(printed)}")
        nanoseconds = int(found["ticks"]) * 10**9 // self.cpu.clock_hz  # of which qemu counts one an instruction
        return self._results(count), self._footprint(int(found["stack"]), nanoseconds // count)

    def _emulate(self) -> str:
        """What the firmware prints."""
        arguments = ["-M", self.cpu.board, "-display", "none", "-monitor", "none", "-serial", "none"]
        arguments += ["-semihosting-config", "enable=on,target=native", "-icount", "shift=0", "-kernel", "firmware.elf"]
        return self.tools.run(QEMU, arguments, self.folder, f"{self.cpu.cpu} in qemu")

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
        printed = self.tools.run(SIZE, ["-A", "firmware.elf"], self.folder, SIZE)
        versions = self.tools.versions()
        sizes = {name: int(size) for name, size in re.findall(r"^\.(\w+) +(\d+)", printed, re.MULTILINE)}
        return Footprint(
            flash_bytes=sizes["network_code"] + sizes.get("network_constants", 0),
            arena_bytes=sizes.get("network_ram", 0),
            stack_bytes=stack,
            instructions=instructions,
            how=f"flash and arena from the linker (gcc {versions['gcc']} -O2, plain C kernels), stack by painting it, "
            f"instructions counted by qemu {versions['qemu']}; no time follows from them",
        )


def build(cpu: Microcontroller, tools: Tools, program: c_code.Program, folder: Path) -> Firmware:
    """Compile and link in a folder. Raises Refused where the network does not fit the board's memory, FirmwareError."""
    program.write(folder)
    for name in ("main.c", "board.ld"):
        shutil.copy(FIRMWARE / name, folder / name)
    (folder / "samples.h").write_text(_samples_header(program))
    (folder / "memory.ld").write_text(_memory(cpu))
    flags = [f"-mcpu={cpu.core}", *FLAGS]
    tools.run(COMPILER, [*flags, "-c", c_code.SOURCE, "-o", "network.o"], folder, COMPILER)
    tools.run(COMPILER, [*flags, *PLAIN, "-c", "main.c", "-o", "main.o"], folder, COMPILER)
    link = [*flags, *LINKING, "-T", "memory.ld", "-T", "board.ld", "network.o", "main.o", "-lgcc"]
    try:
        tools.run(COMPILER, [*link, "-o", "firmware.elf"], folder, COMPILER)
    except FirmwareError as error:
        if re.search(r"will not fit|overflowed|does not fit", str(error)):
            constants = program.constant_bytes / MIB
            arena = program.arena_bytes / MIB
            raise Refused(
                f"the network does not fit the emulated board {cpu.board}: {constants:.1f} MiB of constants, "
                f"{arena:.1f} MiB of arena"
            ) from None
        raise
    return Firmware(cpu, tools, program, folder)


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


# --- sessions ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class MicrocontrollerLoadable(Loadable):
    """How to open an artifact on an emulated microcontroller."""

    emulator: str
    footprints: list[Footprint] = field(default_factory=list)  # what each run of its sessions found

    def open(self, threads: int) -> "MicrocontrollerSession":
        """The network as firmware. Raises Refused naming an operator that has no kernel in C, MissingTool."""
        del threads  # it has one core
        cpu, tools = emulated(self.emulator)
        session = open_session(cpu, tools, Path(self.path), **self.options)
        session.footprints = self.footprints
        return session


class MicrocontrollerSession:
    """A network on an emulated microcontroller; samples come and go as the model takes them."""

    def __init__(
        self, firmware: Firmware, channels_last: Sequence[str], place: tempfile.TemporaryDirectory[str]
    ) -> None:
        self.firmware = firmware
        self.footprints: list[Footprint] = []  # one for each run
        self._inputs = _ports(firmware.program.inputs, channels_last)
        self._outputs = _ports(firmware.program.outputs, channels_last)
        self._place = place

    def run(self, feeds: Feeds) -> dict[str, "np.ndarray"]:
        """Outputs of one batch, one sample after another."""
        count = len(next(iter(feeds.values())))
        encoded: dict[str, np.ndarray] = {}
        for name, port in self._inputs.items():
            encoded[name] = np.stack([port.encode(feeds[name][i : i + 1]) for i in range(count)])
        results, footprint = self.firmware.run(encoded)
        self.footprints.append(footprint)
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
    tools: Tools,
    path: Path,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    channels_last: Sequence[str] = (),
) -> MicrocontrollerSession:
    """The network of a .tflite file, or of the C array in a folder, on that core."""
    model = read_array(path / C_ARRAY) if path.is_dir() else path.read_bytes()
    program = c_code.program(model, SYMBOL, inputs, outputs)
    place = tempfile.TemporaryDirectory(prefix=PREFIX)
    try:
        firmware = build(cpu, tools, program, Path(place.name))
    except BaseException:
        place.cleanup()
        raise
    return MicrocontrollerSession(firmware, channels_last, place)
