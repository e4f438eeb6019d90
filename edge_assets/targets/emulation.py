"""CPUs that qemu emulates, as data: where a target's arithmetic can be checked without its hardware.

How programs run on one, and what installs it, is in `edge_assets.devices.emulators`, and of microcontrollers, which
have no operating system, in `edge_assets.devices.microcontrollers`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

CPUINFO_CORES = 4  # blocks in /proc/cpuinfo: programs read there what a core can do, not how many they may use


@dataclass(frozen=True)
class EmulatedCpu:
    """One instruction set to compute on."""

    name: str
    cpu: str  # in words, as evidence says who computed it
    description: str  # what it is, and where it is not the one that a target has
    architecture: str  # aarch64, x86_64
    qemu_model: str  # qemu's -cpu
    instruction_sets: tuple[str, ...]  # as Linux on it says them in /proc/cpuinfo: `Features`, `flags`
    arm_part: str | None = None  # ARM's /proc/cpuinfo "CPU part"

    @property
    def installation(self) -> str:
        """What it is installed and removed with: all of its architecture."""
        return self.architecture

    def cpuinfo(self) -> str:
        """What Linux on a machine with this CPU says in /proc/cpuinfo.

        Programs choose their kernels by it, and say by it what they ran on. qemu 7 shows the file of the machine that
        it runs on: another architecture's ends ONNX Runtime by SIGSEGV, and one that promises more than the CPU has
        ends LiteRT by SIGILL.
        """
        sets = " ".join(self.instruction_sets)
        block = ["vendor_id\t: GenuineIntel", f"model name\t: {self.cpu}", f"flags\t\t: {sets}"]
        if self.architecture == "aarch64":
            block = [
                "BogoMIPS\t: 108.00",
                f"Features\t: {sets}",
                "CPU implementer\t: 0x41",
                "CPU architecture: 8",
                "CPU variant\t: 0x0",
                f"CPU part\t: {self.arm_part}",
                "CPU revision\t: 3",
            ]
        lines = []
        for core in range(CPUINFO_CORES):
            lines += [f"processor\t: {core}", *block, ""]
        return "\n".join(lines) + "\n"


# fmt: off
_ARMV8 = ("fp", "asimd", "aes", "pmull", "sha1", "sha2", "crc32", "cpuid")
_ARMV8_2 = (*_ARMV8, "atomics", "fphp", "asimdhp", "asimdrdm", "lrcpc", "dcpop", "asimddp")
_ARM_MAX = (*_ARMV8_2, "jscvt", "fcma", "sha3", "sm3", "sm4", "sha512", "sve", "asimdfhm", "sve2", "svei8mm", "svebf16",
            "i8mm", "bf16")
_HASWELL = ("sse", "sse2", "pni", "ssse3", "sse4_1", "sse4_2", "popcnt", "aes", "pclmulqdq", "movbe", "avx", "f16c",
            "fma", "avx2", "bmi1", "bmi2", "abm")
# fmt: on

_CPUS = (
    EmulatedCpu(
        name="cortex-a72",
        cpu="Cortex-A72",
        description="ARMv8.0 without dot products, as in a Raspberry Pi 4",
        architecture="aarch64",
        qemu_model="cortex-a72",
        instruction_sets=_ARMV8,
        arm_part="0xd08",
    ),
    EmulatedCpu(
        name="cortex-a76",
        cpu="Cortex-A76",
        description="ARMv8.2 with dot products, as in a Raspberry Pi 5",
        architecture="aarch64",
        qemu_model="cortex-a76",
        instruction_sets=_ARMV8_2,
        arm_part="0xd0b",
    ),
    EmulatedCpu(
        name="arm-max",
        cpu="ARM with I8MM, BF16 and SVE2",
        description="qemu's `max`: all that qemu has, without SME; no CPU that there is",
        architecture="aarch64",
        # with SME, LiteRT's int8 kernels give garbage: qemu's fault or theirs, no CPU of a target has it
        qemu_model="max,sme=off",
        instruction_sets=_ARM_MAX,
        arm_part="0xd0f",
    ),
    EmulatedCpu(
        name="haswell",
        cpu="Haswell",
        description="x86-64 with AVX2 and without VNNI",
        architecture="x86_64",
        # without what qemu lacks, none of it arithmetic: it would warn of each in every run
        qemu_model="Haswell-noTSX,invpcid=off,pcid=off,x2apic=off,tsc-deadline=off",
        instruction_sets=_HASWELL,
    ),
)
EMULATED: Mapping[str, EmulatedCpu] = {cpu.name: cpu for cpu in _CPUS}


@dataclass(frozen=True)
class Region:
    """Memory of a board."""

    origin: int
    length: int  # bytes


@dataclass(frozen=True)
class Microcontroller:
    """A core on a board of qemu's, which has more memory than any target."""

    name: str
    cpu: str  # in words
    description: str
    architecture: str
    core: str  # the compiler's -mcpu
    board: str  # qemu's -M
    clock_hz: int  # of the board's core
    code: Region
    constants: Region
    ram: Region
    instruction_sets: tuple[str, ...]

    @property
    def installation(self) -> str:
        """What it is installed and removed with: one compiler and one qemu are for all of them."""
        return CORTEX_M


CORTEX_M = "cortex-m"
MIB = 2**20


def _mps2(number: int, board: str) -> Microcontroller:
    """A Cortex-M with DSP instructions on a board MPS2: Arm's boards differ in the core alone."""
    return Microcontroller(
        name=f"cortex-m{number}",
        cpu=f"Cortex-M{number}",
        description=f"ARMv7E-M with DSP instructions, on the board MPS2 {board.upper()}",
        architecture="armv7e-m",
        core=f"cortex-m{number}",
        board=f"mps2-{board}",
        clock_hz=25_000_000,
        code=Region(0, MIB),
        constants=Region(MIB, 3 * MIB),
        ram=Region(0x20000000, 4 * MIB),
        instruction_sets=("dsp", "fp"),
    )


_MICROCONTROLLERS = (
    _mps2(4, "an386"),
    _mps2(7, "an500"),
    Microcontroller(
        name="cortex-m55",
        cpu="Cortex-M55",
        description="ARMv8.1-M with vectors (Helium), on the board MPS3 AN547",
        architecture="armv8.1-m.main",
        core="cortex-m55",
        board="mps3-an547",
        clock_hz=32_000_000,
        code=Region(0, MIB // 2),
        constants=Region(0x01000000, 2 * MIB),
        ram=Region(0x21000000, 4 * MIB),
        instruction_sets=("dsp", "fp", "mve"),
    ),
)
MICROCONTROLLERS: Mapping[str, Microcontroller] = {each.name: each for each in _MICROCONTROLLERS}
Emulatable: TypeAlias = EmulatedCpu | Microcontroller
EMULATABLE: Mapping[str, Emulatable] = {**EMULATED, **MICROCONTROLLERS}
