"""What orchestration, tracking and the store cost: `edge-assets build` against a hand-written script.

    python -m benchmarks.overhead [--rounds 3] [--mode rapid] [--json FILE]

The script (benchmarks/handwritten.py) makes the same distinct files from the newest digits checkpoint for the
four CPU targets, verifies them on the same images and measures them for as long. Both run in fresh processes and
fresh folders, in turns, so that what else the machine does meanwhile hits both. CPU seconds are those of the
whole process tree. Other work on the machine inflates them, since threads that wait for each other spin, so its
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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from edge_assets.targets import this_machine

ROOT = Path(__file__).parent.parent
CHECKPOINTS = ROOT / "examples" / "digits" / "checkpoints"
INTERVAL = 0.1  # seconds between two looks at memory
MOVED = 2**20  # bytes of resident memory from which a new look counts as a sample
IMPORT_REPEATS = 7
FIRST_BUILD_RATIO, SECOND_BUILD_SECONDS, IMPORT_RATIO, MEMORY_RATIO = 1.3, 5.0, 2.0, 1.2  # targets
IMPORTS = {"ours": "import edge_assets.definitions", "dagster": "import dagster"}
HEAVY = ("torch", "onnxruntime", "mlflow")  # must not be imported with the definitions
QUIET = 0.1  # share of the machine that others may take before CPU seconds mean little
TOOLS = ("torch", "onnx", "onnxruntime", "numpy", "dagster", "mlflow")
SETTINGS = ("EDGE_ASSETS_", "DAGSTER_", "MLFLOW_")  # variables that would lead a build out of its fresh folder
SCRIPT_NAMES = {  # our recipes by the script's names, where they differ from ours
    "int8_static_qdq_u8s8_perchannel_minmax": "onnx_int8_u8s8",
    "int8_static_qdq_u8s8_perchannel_reducedrange_minmax": "onnx_int8_u8s8_reduced",
    "int8_static_qdq_s8s8_perchannel_minmax": "onnx_int8_s8s8",
    "int8_static_torch_x86_perchannel_minmax": "torch_int8_x86",
    "int8_static_torch_x86_perchannel_reducedrange_minmax": "torch_int8_x86_reduced",
    "int8_static_torch_qnnpack_perchannel_minmax": "torch_int8_qnnpack",
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
class Round:
    """One turn of each side, and whether both did the same work."""

    script: Usage
    first: Usage
    second: Usage
    script_phases: Mapping[str, float]  # CPU seconds
    script_accuracies: Mapping[str, float]
    our_accuracies: Mapping[str, float]


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


def one_round(checkpoint: Path, mode: str) -> Round:
    """The script, our first build and our identical second build, each in a fresh process and folder."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        output, home = folder / "script", folder / "home"
        output.mkdir()
        script = python("-m", "benchmarks.handwritten", str(checkpoint), str(output), mode)
        ours = python("-m", "edge_assets.cli", "build", "--model", "digits", "--mode", mode)
        tell("the hand-written script")
        by_script = run(script, home, folder / "script.log", sample=True)
        tell(f"  {by_script.cpu_seconds:.0f} CPU s, {by_script.wall_seconds:.0f} s. edge-assets build")
        first = run(ours, home, folder / "first.log", sample=True)
        tell(f"  {first.cpu_seconds:.0f} CPU s, {first.wall_seconds:.0f} s. The same build again")
        second = run(ours, home, folder / "second.log")
        report = json.loads((output / "report.json").read_text())
        accuracies = {name: row["accuracy"] for name, row in report["verified"].items() if name != "eager"}
        return Round(by_script, first, second, report["cpu_seconds"], accuracies, our_accuracies(home))


def python(*arguments: str) -> list[str]:
    """A command that runs this interpreter."""
    return [sys.executable, *arguments]


def our_accuracies(home: Path) -> dict[str, float]:
    """Accuracies of the distinct artifacts that a build made, by the script's names."""
    command = python("-m", "edge_assets.cli", "scorecard", "--model", "digits", "--json")
    rows = json.loads(subprocess.run(command, cwd=ROOT, env=environment(home), check=True, capture_output=True).stdout)
    return {
        SCRIPT_NAMES.get(row["recipe"], row["artifact"]): row["accuracy"]
        for row in rows
        if row["accuracy"] is not None and row["artifact"] != "checkpoint"
    }


def import_times() -> dict[str, list[float]]:
    """CPU seconds of fresh processes that import our definitions, and of those that import Dagster, in turns."""
    times: dict[str, list[float]] = {name: [] for name in IMPORTS}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for repeat in range(IMPORT_REPEATS + 1):
            for name, statement in IMPORTS.items():
                usage = run(python("-c", statement), folder / "home", folder / "log")
                if repeat:  # the first of each only warms the file cache
                    times[name].append(usage.cpu_seconds)
    return times


def heavy_imports() -> list[str]:
    """Heavy libraries that importing our definitions brings in."""
    code = f"import json, sys, edge_assets.definitions; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            python("-c", code), cwd=ROOT, env=environment(Path(scratch)), check=True, capture_output=True
        )
    return list(json.loads(done.stdout))


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


def print_machine(rounds: int, mode: str, checkpoint: Path) -> None:
    """Where the figures come from."""
    machine = this_machine()
    memory = machine.memory_bytes / 2**30
    print(f"machine   {machine.cpu}, {machine.cores} cores, {memory:.0f} GiB, {machine.system}")
    print(f"          load average {os.getloadavg()[0]:.1f} before the first round")
    print(f"versions  python {platform.python_version()}, {', '.join(f'{tool} {version(tool)}' for tool in TOOLS)}")
    print(f"work      {checkpoint.stem}, four CPU targets, mode {mode}, {rounds} round(s); medians (lowest..highest)")


def print_same_work(rounds: Sequence[Round]) -> None:
    """Whether both sides made the same files, as far as their accuracy tells."""
    for entry in rounds:
        ours, script = entry.our_accuracies, entry.script_accuracies
        if ours.keys() != script.keys():
            print(f"          NOT THE SAME WORK: only on one side: {', '.join(sorted(ours.keys() ^ script.keys()))}")
            return
    largest = max(abs(r.our_accuracies[name] - r.script_accuracies[name]) for r in rounds for name in r.our_accuracies)
    count = len(rounds[0].our_accuracies)
    print(
        f"          {count} distinct artifacts on both sides, accuracies differ by {100 * largest:.2f} points at most"
    )


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
    for phase in rounds[0].script_phases:
        print(f"     of the script, {phase}: {spread([r.script_phases[phase] for r in rounds], 1)} CPU s")
    print(f"   ratio of CPU seconds {spread(ratios, 2)}, target <= {FIRST_BUILD_RATIO}: {verdict}")
    print(f"   ratio of wall seconds {spread(walls, 2)}")


def print_second_build(rounds: Sequence[Round]) -> None:
    """The cost of a build with nothing to do."""
    cpu, wall = [r.second.cpu_seconds for r in rounds], [r.second.wall_seconds for r in rounds]
    verdict = met(statistics.median(cpu) <= SECOND_BUILD_SECONDS)
    print("\n2. identical second build")
    print(f"   {spread(cpu, 2)} CPU s, target <= {SECOND_BUILD_SECONDS:.0f}: {verdict}; {spread(wall, 1)} wall s")


def print_imports(times: Mapping[str, Sequence[float]], heavy: Sequence[str]) -> None:
    """Import time of our definitions against Dagster's own, and what they bring in."""
    ratios = [ours / dagster for ours, dagster in zip(times["ours"], times["dagster"], strict=True)]
    print("\n3. importing the definitions, fresh processes")
    for name, statement in IMPORTS.items():
        print(f"   {statement:<30} {spread(times[name], 2)} CPU s")
    print(f"   ratio {spread(ratios, 2)}, target < {IMPORT_RATIO:.0f}: {met(statistics.median(ratios) < IMPORT_RATIO)}")
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


def main() -> None:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(prog="benchmarks.overhead", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side (default 3)")
    parser.add_argument("--mode", choices=("rapid", "quick", "release"), default="rapid", help="how long to measure")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all raw numbers")
    arguments = parser.parse_args()
    checkpoint = sorted(CHECKPOINTS.glob("*.safetensors"))[-1]
    print_machine(arguments.rounds, arguments.mode, checkpoint)
    times, heavy = import_times(), heavy_imports()
    rounds = []
    for number in range(1, max(1, arguments.rounds) + 1):
        tell(f"round {number} of {arguments.rounds}")
        rounds.append(one_round(checkpoint, arguments.mode))
    print_same_work(rounds)
    print_first_build(rounds)
    print_second_build(rounds)
    print_imports(times, heavy)
    print_memory(rounds)
    if arguments.json:
        raw: dict[str, Any] = {"machine": this_machine().to_dict(), "versions": {tool: version(tool) for tool in TOOLS}}
        raw |= {"mode": arguments.mode, "checkpoint": checkpoint.name, "imports_cpu_seconds": times, "heavy": heavy}
        arguments.json.write_text(json.dumps(raw | {"rounds": [asdict(r) for r in rounds]}, indent=1))


if __name__ == "__main__":
    main()
