"""What the emulated CPUs compute, by the loaders of released folders; skipped where they are not installed."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from edge_assets.core.runtimes import RUNTIMES
from edge_assets.devices.emulators import Emulator, installed
from edge_assets.errors import MissingTool
from edge_assets.families.families import FAMILIES
from edge_assets.pipeline.cell import Cell
from edge_assets.targets import this_machine
from edge_assets.targets.emulation import EMULATED
from edge_assets.targets.project import target
from resources import checkpoints
from resources.store import ArtifactStore
from tests.conftest import ROOT, Project
from tests.facts import said
from tests.tiny.data import split
from tests.tiny.spec import TINY

SAMPLES = 60
ARM = ("cortex-a72", "cortex-a76", "arm-max")
# file -> the variant and the target whose flavour it has
FILES = {
    "fp32": ("onnx_model", "x86-64-vnni"),
    "full_range": ("onnx_int8_static", "x86-64-vnni"),
    "reduced_range": ("onnx_int8_static", "x86-64-avx2"),
    "signed": ("onnx_int8_static", "graviton3"),
    "litert": ("litert_int8_static", "pixel-8"),
}
ON_X86 = ("fp32", "full_range", "reduced_range", "signed")
# opens files by the loaders that are given, and keeps what they compute
RUN = """
import importlib.util, json, sys
from pathlib import Path
import numpy as np

jobs, inputs, outputs = sys.argv[1:]
computed = {}
for name, job in json.loads(jobs).items():
    spec = importlib.util.spec_from_file_location("loader", job["loader"])
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    run = loader.load(Path(job["model"]), job["manifest"])
    computed[name] = run(dict(np.load(inputs)))["logits"]
np.savez(outputs, **computed)
"""
Computed = Mapping[str, np.ndarray]  # file -> logits float32 [samples, 10]
Compute = Callable[[str], Computed]
# the bits of AT_HWCAP and AT_HWCAP2, in Linux's order
HWCAP = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc dcpop sha3 "
    "sm3 sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs sb paca pacg"
)
HWCAP2 = (
    "dcpodp sve2 sveaes svepmull svebitperm svesha3 svesm4 flagm2 frint svei8mm svef32mm svef64mm svebf16 i8mm bf16 "
    "dgh rng bti mte ecv afp rpres mte3 sme"
)
ASK_ARM = """
import ctypes, json
ask = ctypes.CDLL(None).getauxval
ask.restype, ask.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
print(json.dumps([ask(16), ask(26), open("/proc/cpuinfo").read()]))
"""
# `cpuid` of leaf and subleaf into four words, as machine code in memory that may be executed
ASK_X86 = """
import ctypes, json, mmap
code = bytes.fromhex("53 89f8 89f1 4989d0 0fa2 418900 41895804 41894808 4189500c 5b c3")
memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
memory.write(code)
place = ctypes.addressof(ctypes.c_char.from_buffer(memory))
cpuid = ctypes.CFUNCTYPE(None, ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p)(place)
def ask(leaf, subleaf):
    words = (ctypes.c_uint * 4)()
    cpuid(leaf, subleaf, ctypes.addressof(words))
    return list(words)
print(json.dumps([ask(1, 0), ask(7, 0), ask(7, 1), ask(0x80000001, 0), open("/proc/cpuinfo").read()]))
"""
# instruction set -> which answer of ASK_X86, register and bit
CPUID = {
    "sse": (0, 3, 25),
    "sse2": (0, 3, 26),
    "pni": (0, 2, 0),
    "pclmulqdq": (0, 2, 1),
    "ssse3": (0, 2, 9),
    "fma": (0, 2, 12),
    "sse4_1": (0, 2, 19),
    "sse4_2": (0, 2, 20),
    "movbe": (0, 2, 22),
    "popcnt": (0, 2, 23),
    "aes": (0, 2, 25),
    "avx": (0, 2, 28),
    "f16c": (0, 2, 29),
    "bmi1": (1, 1, 3),
    "avx2": (1, 1, 5),
    "bmi2": (1, 1, 8),
    "avx512f": (1, 1, 16),
    "avx512_vnni": (1, 2, 11),
    "avx_vnni": (2, 0, 4),
    "abm": (3, 2, 5),
}


def emulator(name: str) -> Emulator:
    """The CPU of that name; skips the test where it is not installed."""
    try:
        return installed(name)
    except MissingTool as missing:
        pytest.skip(str(missing))


def asked(name: str, program: str) -> list:
    """What a Python program prints on that CPU, as JSON."""
    command = emulator(name).command("-c", program)
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)


@pytest.mark.parametrize("name", ARM)
def test_an_arm_cpu_has_the_instruction_sets_that_it_says(name: str) -> None:
    first, second, cpuinfo = asked(name, ASK_ARM)
    has = {word for bit, word in enumerate(HWCAP.split()) if first >> bit & 1}
    has |= {word for bit, word in enumerate(HWCAP2.split()) if second >> bit & 1}
    assert set(EMULATED[name].instruction_sets) <= has
    assert "sme" not in has
    assert said_by(cpuinfo, "Features") >= set(EMULATED[name].instruction_sets)
    assert ("asimddp" in has, "i8mm" in has) == (name != "cortex-a72", name == "arm-max")


def test_haswell_has_the_instruction_sets_that_it_says_and_no_vnni() -> None:
    *answers, cpuinfo = asked("haswell", ASK_X86)
    has = {name for name, (answer, register, bit) in CPUID.items() if answers[answer][register] >> bit & 1}
    assert has == set(EMULATED["haswell"].instruction_sets)
    assert said_by(cpuinfo, "flags") >= has
    assert "avx512_vnni" not in cpuinfo, "the file of this machine"


def said_by(cpuinfo: str, line: str) -> set[str]:
    """The instruction sets in that line of /proc/cpuinfo, which later versions of qemu write themselves for ARM."""
    (first, *_others) = re.findall(rf"^{line}\s*: (.*)$", cpuinfo, re.MULTILINE)
    return set(first.split())


@pytest.mark.parametrize("name", EMULATED)
def test_an_emulated_machine_says_that_it_is_one(name: str) -> None:
    machine = emulator(name).machine()
    assert machine.cpu.startswith(EMULATED[name].cpu)
    assert "(qemu " in machine.cpu
    assert machine.system == "Linux (emulated)"


@pytest.fixture(scope="module")
def compute(store: ArtifactStore, checkpoint_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Compute:
    """Logits of the tiny model's files on an emulated CPU, or on this machine's own by the name "here"."""
    folder = tmp_path_factory.mktemp("emulated")
    feeds = TINY.preprocess.apply({name: array[:SAMPLES] for name, array in split("evaluation").items()})
    np.savez(folder / "inputs.npz", image=feeds["image"])

    @cache
    def jobs() -> dict[str, dict[str, object]]:
        return {file: job(store, checkpoint_file, *of) for file, of in FILES.items()}

    @cache
    def run(name: str) -> Computed:
        command = [sys.executable]
        files = list(FILES)
        if name != "here":
            command = emulator(name).command()
        if name == "haswell":
            files = list(ON_X86)
        wanted = json.dumps({file: jobs()[file] for file in files})
        outputs = folder / f"{name}.npz"
        subprocess.run([*command, "-c", RUN, wanted, str(folder / "inputs.npz"), str(outputs)], check=True, timeout=300)
        return dict(np.load(outputs))

    return run


def job(store: ArtifactStore, checkpoint_file: Path, variant: str, on: str) -> dict[str, object]:
    """What a new process needs to run a variant as a release does."""
    checkpoint = checkpoints.register(store, TINY.name, str(checkpoint_file))
    family = FAMILIES[target(on).family]
    built = Cell(TINY, family, target(on), checkpoint, store, log=lambda _line: None).build(variant)
    assert built.artifact is not None, built.build.refused
    (runtime,) = {entry.runtime for entry in family.variants if entry.name == variant}
    session = said(built).get("session", {})
    return {
        "loader": str(ROOT / "edge_assets" / "toolchains" / str(RUNTIMES[runtime].loader)),
        "model": str(store.checkout(built.artifact)),
        "manifest": {"inputs": ["image"], "outputs": ["logits"], "session": session},
    }


def test_a_release_checks_itself_on_an_emulated_cpu_of_its_target(built: Project) -> None:
    emulator("arm-max")
    (folder,) = (built.home / "releases" / "tiny" / "graviton3").iterdir()
    command = [sys.executable, "-m", "edge_assets.cli", "emulator", "run", "arm-max", str(folder / "infer.py")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "logits" in result.stdout


def snr_db(reference: np.ndarray, output: np.ndarray) -> float:
    """Of float arrays, in float64."""
    signal, error = reference.astype(np.float64), reference.astype(np.float64) - output
    return 10 * np.log10((signal**2).sum() / max((error**2).sum(), 1e-30))


def test_full_range_saturates_without_vnni_and_the_reduced_range_does_not(compute: Compute) -> None:
    if not {"avx512_vnni", "avx_vnni"} & set(this_machine().instruction_sets):
        pytest.skip("this machine has no VNNI to compare with")
    without, here = compute("haswell"), compute("here")
    assert snr_db(here["full_range"], without["full_range"]) < 30
    assert np.array_equal(here["reduced_range"], without["reduced_range"])
    assert snr_db(here["fp32"], without["fp32"]) > 100


def test_arm_cpus_agree_bit_for_bit_below_matrix_products(compute: Compute) -> None:
    """So Cortex-A76 speaks for Cortex-A72 too."""
    older, newer = compute("cortex-a72"), compute("cortex-a76")
    for file in FILES:
        assert np.array_equal(older[file], newer[file]), file


@pytest.mark.parametrize("name", ARM)
def test_arm_computes_what_this_machine_does_but_for_rounding(name: str, compute: Compute) -> None:
    there, here = compute(name), compute("here")
    assert snr_db(here["fp32"], there["fp32"]) > 100
    assert np.array_equal(here["litert"], there["litert"]), "with SME in qemu's `max`, this is garbage"
    assert snr_db(here["signed"], there["signed"]) > 20
    assert (here["signed"].argmax(1) == there["signed"].argmax(1)).mean() > 0.95
