"""All scripts, one after the other: `python -m benchmarks.handwritten CHECKPOINT OUTPUT [--mode M] [--matrix X]`.

report.json in OUTPUT has what they made, with accuracies, and the CPU seconds of each.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

# in this order: `data` and `cpu` write what the others start from
SCRIPTS = {"cpu": ("data", "cpu"), "all": ("data", "cpu", "tensorrt", "coreml", "litert", "executorch", "browser")}


def main() -> None:
    """Run the scripts of a matrix. Ends with the first that fails."""
    parser = argparse.ArgumentParser(prog="benchmarks.handwritten", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--mode", choices=("rapid", "quick", "release"), default="rapid")
    parser.add_argument("--matrix", choices=SCRIPTS, default="cpu")
    arguments = parser.parse_args()
    reports = {}
    for name in SCRIPTS[arguments.matrix]:
        module, paths = f"benchmarks.handwritten.{name}", (str(arguments.checkpoint), str(arguments.output))
        before = children_seconds()
        subprocess.run([sys.executable, "-m", module, *paths, arguments.mode], check=True)
        report = json.loads((arguments.output / f"{name}.json").read_text())
        reports[name] = report | {"cpu_seconds": children_seconds() - before}
    (arguments.output / "report.json").write_text(json.dumps(reports, indent=1))


def children_seconds() -> float:
    """User and system time of the children that ended, with theirs."""
    return sum(os.times()[2:4])


if __name__ == "__main__":
    main()
