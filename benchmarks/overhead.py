"""What orchestration, tracking and the store cost: `edge-assets build` against a hand-written script.

    python -m benchmarks.overhead [--matrix cpu] [--rounds 3] [--mode rapid] [--json FILE]

The script (benchmarks/handwritten) makes the same distinct files from the newest digits checkpoint, for the four CPU
targets or for the whole matrix, verifies them on the same images and measures them for as long. Both run in fresh
processes and fresh folders, in turns, so that what else the machine does meanwhile hits both. CPU seconds are those
of the whole process tree. Other work on the machine inflates them, since threads that wait for each other spin, so its
share is printed. The ratio includes the seconds that both spend on timing queries, which the mode fixes.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from benchmarks import imports
from edge_assets.core.types import Built
from edge_assets.targets import this_machine

ROOT = Path(__file__).parent.parent
CHECKPOINTS = ROOT / "examples" / "digits" / "checkpoints"
INTERVAL = 0.1  # seconds between two looks at memory
MOVED = 2**20  # bytes of resident memory from which a new look counts as a sample
IMPORT_REPEATS = 7
FIRST_BUILD_RATIO, IMPORT_RATIO, MEMORY_RATIO = 1.3, 1.6, 1.2  # targets
IMPORTS = {"ours": "import edge_assets.definitions", "dagster": "import dagster"}
HEAVY = ("torch", "onnxruntime", "mlflow")  # must not be imported with the definitions
# must not be imported by a build for ALONE
TOOLCHAINS = (
    *("coremltools", "litert_torch", "ai_edge_quantizer", "ai_edge_litert", "tflite_micro"),
    *("executorch", "tensorrt_rtx", "playwright"),
)
ALONE = "graviton3"
QUIET = 0.1  # share of the machine that others may take before CPU seconds mean little
TOOLS = ("torch", "onnx", "onnxruntime", "numpy", "dagster", "mlflow")
SETTINGS = ("EDGE_ASSETS_", "DAGSTER_", "MLFLOW_")  # variables that would lead a build out of its fresh folder


@dataclass(frozen=True)
class Matrix:
    """What is built, and the target of an identical second build."""

    description: str
    targets: tuple[str, ...]  # none: all of the model's
    second_build_seconds: float  # CPU seconds
    tools: tuple[str, ...] = TOOLS


MATRICES = {
    "cpu": Matrix("four CPU targets", ("x86-64-avx2", "x86-64-vnni", "raspberry-pi-5", "graviton3"), 5),
    "all": Matrix(
        "every target of every family",
        (),
        8,
        (*TOOLS, "coremltools", "litert-torch", "ai-edge-quantizer", "executorch", "tensorrt-rtx", "playwright"),
    ),
}


@dataclass(frozen=True)
class Usage:
    """What one command took, with all its descendants that were waited for."""

    cpu_seconds: float  # user and system
    wall_seconds: float
    peak_bytes: int | None  # of the tree's summed memory; None where it was not sampled
    samples: int
    sampling_cpu_seconds: float  # of the sampler, which is not in cpu_seconds
    other_cpu_seconds: float  # of everything else on the machine meanwhile


@dataclass(frozen=True)
class Made:
    """What one side made, by the names of our artifacts."""

    artifacts: Mapping[str, int]  # how many distinct ones
    accuracies: Mapping[str, Sequence[float]]  # of each distinct verification, ascending
    conversions: int  # that made them


@dataclass(frozen=True)
class Round:
    """One turn of each side, and what each made."""

    script: Usage
    first: Usage
    second: Usage
    script_seconds: Mapping[str, float]  # CPU seconds of each toolchain
    script_phases: Mapping[str, Mapping[str, float]]  # of which, by phase
    script_made: Made
    we_made: Made


# --- running and watching ------------------------------------------------------------------------------


def run(command: Sequence[str], home: Path, log: Path, sample: bool = False) -> Usage:
    """Run a command to its end. Exits with the end of its log if it failed."""
    busy, sampler, started = busy_seconds(), time.process_time(), time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(home), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        peaks, status, usage = watch(process.pid, sample)
    except BaseException:
        process.kill()
        raise
    wall, sampling = time.perf_counter() - started, time.process_time() - sampler
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{log.read_text(errors='replace')[-3000:]}")
    cpu = usage.ru_utime + usage.ru_stime
    other = max(0.0, busy_seconds() - busy - cpu - sampling)
    return Usage(cpu, wall, max(peaks, default=None), len(peaks), sampling, other)


def busy_seconds() -> float:
    """CPU seconds that all processes of this machine have taken since it started."""
    times = psutil.cpu_times()
    return sum(getattr(times, kind, 0.0) for kind in ("user", "nice", "system", "irq", "softirq"))


def watch(pid: int, sample: bool) -> tuple[list[int], int, Any]:
    """Memory samples in bytes, exit status, and resource usage including that of all waited-for descendants."""
    samples: list[int] = []
    seen: dict[int, int] = {}
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG if sample else 0)
        if ended:
            return samples, status, usage
        resident = resident_bytes(pid)
        # a proportional size takes milliseconds of the kernel's time to read, and is never above the resident one
        if has_moved(resident, seen) and sum(resident.values()) > max(samples, default=0):
            samples.append(sum(proportional_bytes(one, size) for one, size in resident.items()))
            seen = resident
        time.sleep(INTERVAL)


def has_moved(now: Mapping[int, int], before: Mapping[int, int]) -> bool:
    """Whether processes came or went, or the size of one changed by more than MOVED."""
    return now.keys() != before.keys() or any(abs(size - before[pid]) > MOVED for pid, size in now.items())


def resident_bytes(pid: int) -> dict[int, int]:
    """Resident set sizes of a process and its descendants."""
    sizes = {}
    try:
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                sizes[process.pid] = int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        pass
    return sizes


def proportional_bytes(pid: int, resident: int) -> int:
    """Proportional set size, which counts shared pages once; `resident` where it cannot be read."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except ProcessLookupError:  # it ended meanwhile
        return 0
    except OSError:
        return resident
    return 1024 * int(rollup.partition("\nPss:")[2].split()[0])


def environment(home: Path) -> dict[str, str]:
    """This process's, without settings that point elsewhere than `home`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    return kept | {"EDGE_ASSETS_HOME": str(home)}


# --- the two sides -------------------------------------------------------------------------------------


def one_round(checkpoint: Path, matrix: str, mode: str) -> Round:
    """The script, our first build and our identical second build, each in a fresh process and folder."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        output, home = folder / "script", folder / "home"
        output.mkdir()
        options = ("--mode", mode, "--matrix", matrix)
        script = python("-m", "benchmarks.handwritten", str(checkpoint), str(output), *options)
        ours = build_command(*MATRICES[matrix].targets, mode=mode)
        tell("the hand-written script")
        by_script = run(script, home, folder / "script.log", sample=True)
        tell(f"  {by_script.cpu_seconds:.0f} CPU s, {by_script.wall_seconds:.0f} s. edge-assets build")
        first = run(ours, home, folder / "first.log", sample=True)
        tell(f"  {first.cpu_seconds:.0f} CPU s, {first.wall_seconds:.0f} s. The same build again")
        second = run(ours, home, folder / "second.log")
        report = json.loads((output / "report.json").read_text())
        seconds = {name: part["cpu_seconds"] for name, part in report.items()}
        phases = {name: part["phases"] for name, part in report.items()}
        return Round(by_script, first, second, seconds, phases, made_by_script(report), made_by_us(home))


def python(*arguments: str) -> list[str]:
    """A command that runs this interpreter."""
    return [sys.executable, *arguments]


def build_command(*targets: str, mode: str, options: Sequence[str] = ()) -> list[str]:
    """`edge-assets build` for those targets, or for all; `options` are the interpreter's."""
    chosen = [argument for target in targets for argument in ("--target", target)]
    return python(*options, "-m", "edge_assets.cli", "build", "--model", "digits", "--mode", mode, *chosen)


def made_by_script(report: Mapping[str, Any]) -> Made:
    """What the script's report says. Its names are ours, with a space before what tells equal ones apart."""
    artifacts: Counter[str] = Counter()
    accuracies: dict[str, list[float]] = {}
    for part in report.values():
        artifacts.update(name.partition(" ")[0] for name in part.get("artifacts", ()))
        for name, row in part.get("verified", {}).items():
            accuracies.setdefault(name.partition(" ")[0], []).append(row["accuracy"])
    return Made(dict(artifacts), {name: sorted(values) for name, values in accuracies.items()}, artifacts.total())


def made_by_us(home: Path) -> Made:
    """What a build's assets point at: artifacts that differ, conversions, verifications, each counted once.

    A verification that several artifacts share counts for the first of them.
    """
    artifacts: set[tuple[str, str]] = set()
    recipes: set[str] = set()
    evidence: dict[str, tuple[str, float]] = {}
    for path in sorted((home / "store" / "pointers" / "assets").rglob("*.json")):
        pointer = json.loads(path.read_text())
        if pointer["type"] != "Built":
            continue
        built = Built.from_dict(pointer["value"])
        if built.artifact is None or built.variant == "checkpoint":
            continue
        artifacts.add((built.variant, built.build.sha256))
        recipes.add(built.build.recipe.sha256)
        if built.evidence and built.accuracy:
            evidence.setdefault(built.evidence.recipe.sha256, (built.variant, built.accuracy.value))
    accuracies: dict[str, list[float]] = {}
    for name, accuracy in sorted(evidence.values()):
        accuracies.setdefault(name, []).append(accuracy)
    return Made(dict(Counter(name for name, _ in artifacts)), accuracies, len(recipes))


def import_times() -> dict[str, list[float]]:
    """CPU seconds until fresh processes have imported our definitions, and others Dagster, in turns."""
    dagster, _no_models, ours = imports.measured(IMPORT_REPEATS, ROOT)
    return {"ours": ours.imported, "dagster": dagster.imported}


def heavy_imports() -> list[str]:
    """Heavy libraries that importing our definitions brings in."""
    code = f"import json, sys, edge_assets.definitions; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            python("-c", code), cwd=ROOT, env=environment(Path(scratch)), check=True, capture_output=True
        )
    return list(json.loads(done.stdout))


def toolchains_imported() -> list[str]:
    """Toolchains of other families that a build for one CPU target imports."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run(build_command(ALONE, mode="rapid", options=("-X", "importtime")), folder / "home", folder / "log")
        lines = (folder / "log").read_text(errors="replace").splitlines()
    modules = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines if line.startswith("import time:")}
    assert "torch" in modules, "the log has no import times"
    return sorted(modules & set(TOOLCHAINS))


# --- printing ------------------------------------------------------------------------------------------


def tell(line: str) -> None:
    """Progress, on standard error."""
    print(line, file=sys.stderr, flush=True)


def spread(values: Sequence[float], digits: int) -> str:
    """Median and range."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}..{high:.{digits}f})"


def met(is_met: bool) -> str:
    """The word that ends each line with a target."""
    return "met" if is_met else "missed"


def print_machine(rounds: int, matrix: Matrix, mode: str, checkpoint: Path) -> None:
    """Where the figures come from."""
    machine = this_machine()
    memory = machine.memory_bytes / 2**30
    print(f"machine   {machine.cpu}, {machine.cores} cores, {memory:.0f} GiB, {machine.system}")
    print(f"          load average {os.getloadavg()[0]:.1f} before the first round")
    print(
        f"versions  python {platform.python_version()}, {', '.join(f'{tool} {version(tool)}' for tool in matrix.tools)}"
    )
    print(
        f"work      {checkpoint.stem}, {matrix.description}, mode {mode}, {rounds} round(s); medians (lowest..highest)"
    )


def print_same_work(rounds: Sequence[Round]) -> None:
    """Whether both sides made the same files, as far as their number and accuracy tell, and we each of them once."""
    for entry in rounds:
        if differences := list(differing(entry.we_made, entry.script_made)):
            print(f"          NOT THE SAME WORK: {'; '.join(differences)}")
            return
    largest = max(
        abs(a - b)
        for r in rounds
        for name, ours in r.we_made.accuracies.items()
        for a, b in zip(ours, r.script_made.accuracies[name], strict=True)
    )
    made = rounds[0].we_made
    distinct, verified = sum(made.artifacts.values()), sum(map(len, made.accuracies.values()))
    print(f"          {distinct} distinct artifacts and {verified} verifications on both sides")
    print(f"          accuracies differ by {100 * largest:.2f} points at most")
    print(f"          {made.conversions} conversions by us, target {distinct}: {met(made.conversions <= distinct)}")


def differing(ours: Made, script: Made) -> Iterator[str]:
    """Sentences on what one side made more of."""
    for name in sorted({*ours.artifacts, *script.artifacts, *ours.accuracies, *script.accuracies}):
        counts = [side.artifacts.get(name, 0) for side in (ours, script)]
        verified = [len(side.accuracies.get(name, ())) for side in (ours, script)]
        if counts[0] != counts[1]:
            yield f"{name}: {counts[0]} by us, {counts[1]} by the script"
        elif verified[0] != verified[1]:
            yield f"{name}: {verified[0]} verifications by us, {verified[1]} by the script"


def print_first_build(rounds: Sequence[Round]) -> None:
    """CPU and wall seconds of both sides, and the ratio that has a target."""
    ratios = [r.first.cpu_seconds / r.script.cpu_seconds for r in rounds]
    walls = [r.first.wall_seconds / r.script.wall_seconds for r in rounds]
    verdict = met(statistics.median(ratios) <= FIRST_BUILD_RATIO)
    print("\n1. first build, whole process tree")
    for name, side in (("edge-assets", [r.first for r in rounds]), ("script", [r.script for r in rounds])):
        cpu, wall = (spread([getattr(u, f"{kind}_seconds") for u in side], 1) for kind in ("cpu", "wall"))
        print(f"   {name:<12} {cpu} CPU s, {wall} wall s")
    others = [
        u.other_cpu_seconds / (u.wall_seconds * this_machine().cores) for r in rounds for u in (r.first, r.script)
    ]
    advice = f", above {QUIET:.0%}: repeat this on an idle machine" if max(others) > QUIET else ""
    print(f"   other processes took {min(others):.0%} to {max(others):.0%} of the machine meanwhile{advice}")
    for name in rounds[0].script_seconds:
        phases = {
            phase: statistics.median(r.script_phases[name][phase] for r in rounds)
            for phase in rounds[0].script_phases[name]
        }
        share = statistics.median(r.script_seconds[name] / sum(r.script_seconds.values()) for r in rounds)
        print(
            f"     of the script, {name}: {spread([r.script_seconds[name] for r in rounds], 1)} CPU s, {share:.0%}"
            f" ({', '.join(f'{phase} {seconds:.1f}' for phase, seconds in phases.items())})"
        )
    print(f"   ratio of CPU seconds {spread(ratios, 2)}, target <= {FIRST_BUILD_RATIO}: {verdict}")
    print(f"   ratio of wall seconds {spread(walls, 2)}")


def print_second_build(rounds: Sequence[Round], target: float) -> None:
    """The cost of a build with nothing to do."""
    cpu, wall = [r.second.cpu_seconds for r in rounds], [r.second.wall_seconds for r in rounds]
    verdict = met(statistics.median(cpu) <= target)
    print("\n2. identical second build")
    print(f"   {spread(cpu, 2)} CPU s, target <= {target:.0f}: {verdict}; {spread(wall, 1)} wall s")


def print_imports(times: Mapping[str, Sequence[float]], heavy: Sequence[str]) -> None:
    """Import time of our definitions against Dagster's own, and what they bring in."""
    ratios = [ours / dagster for ours, dagster in zip(times["ours"], times["dagster"], strict=True)]
    print("\n3. importing the definitions, fresh processes")
    for name, statement in IMPORTS.items():
        print(f"   {statement:<30} {spread(times[name], 2)} CPU s")
    print(f"   ratio {spread(ratios, 2)}, target <= {IMPORT_RATIO}: {met(statistics.median(ratios) <= IMPORT_RATIO)}")
    print(f"   {', '.join(HEAVY)} in sys.modules: {', '.join(heavy) or 'none'}, target none: {met(not heavy)}")


def print_memory(rounds: Sequence[Round]) -> None:
    """Peak memory of both sides' process trees."""
    ours, script = [r.first.peak_bytes or 0 for r in rounds], [r.script.peak_bytes or 0 for r in rounds]
    ratios = [a / b for a, b in zip(ours, script, strict=True)]
    kind = "PSS" if Path("/proc/self/smaps_rollup").exists() else "RSS"
    print(f"\n4. peak memory while building, summed {kind} of the process tree, sampled every {1000 * INTERVAL:.0f} ms")
    for name, peaks in (("edge-assets", ours), ("script", script)):
        print(f"   {name:<12} {spread([peak / 2**20 for peak in peaks], 0)} MiB")
    print(f"   ratio {spread(ratios, 2)}, target <= {MEMORY_RATIO}: {met(statistics.median(ratios) <= MEMORY_RATIO)}")


def print_toolchains(imported: Sequence[str]) -> None:
    """Whether a build for one CPU target imports what other families need."""
    print(f"\n5. toolchains of other families imported by a build for {ALONE}")
    print(f"   {', '.join(imported) or 'none'}, target none: {met(not imported)}")


def main() -> None:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(prog="benchmarks.overhead", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--matrix", choices=MATRICES, default="cpu", help="what to build (default cpu)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side (default 3)")
    parser.add_argument("--mode", choices=("rapid", "quick", "release"), default="rapid", help="how long to measure")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all raw numbers")
    arguments = parser.parse_args()
    checkpoint = sorted(CHECKPOINTS.glob("*.safetensors"))[-1]
    matrix = MATRICES[arguments.matrix]
    print_machine(arguments.rounds, matrix, arguments.mode, checkpoint)
    times, heavy = import_times(), heavy_imports()
    imported = toolchains_imported() if arguments.matrix == "all" else None
    rounds = []
    for number in range(1, max(1, arguments.rounds) + 1):
        tell(f"round {number} of {arguments.rounds}")
        rounds.append(one_round(checkpoint, arguments.matrix, arguments.mode))
    print_same_work(rounds)
    print_first_build(rounds)
    print_second_build(rounds, matrix.second_build_seconds)
    print_imports(times, heavy)
    print_memory(rounds)
    if imported is not None:
        print_toolchains(imported)
    if arguments.json:
        raw: dict[str, Any] = {
            "machine": this_machine().to_dict(),
            "versions": {tool: version(tool) for tool in matrix.tools},
        }
        raw |= {"matrix": arguments.matrix, "toolchains": imported}
        raw |= {"mode": arguments.mode, "checkpoint": checkpoint.name, "imports_cpu_seconds": times, "heavy": heavy}
        arguments.json.write_text(json.dumps(raw | {"rounds": [asdict(r) for r in rounds]}, indent=1))


if __name__ == "__main__":
    main()
