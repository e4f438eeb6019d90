"""What loading the definitions takes beside Dagster's own import: `python -m benchmarks.imports [--rounds 7]`.

CPU seconds, user and system, of fresh processes that take turns, so that what disturbs the machine disturbs all alike:
`import dagster`, the definitions in a project without models, and the definitions with the models that are registered
where this runs. A first round, which writes Python's bytecode, does not count. Medians, and how many times Dagster's.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Print a line for each import."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as empty:
        imports = {
            "dagster": ("dagster", Path(empty)),
            "definitions, no models": ("edge_assets.definitions", Path(empty)),
            "definitions, registered models": ("edge_assets.definitions", Path.cwd()),
        }
        seconds: dict[str, list[float]] = {name: [] for name in imports}
        for turn in range(rounds + 1):
            for name, (module, folder) in imports.items():
                taken = cpu_seconds(module, folder, state=Path(empty))
                if turn > 0:
                    seconds[name].append(taken)
    base = median(seconds["dagster"])
    for name, each in seconds.items():
        print(f"{name:32} {median(each):6.3f} s  {median(each) / base:5.2f} x")


def cpu_seconds(module: str, folder: Path, state: Path) -> float:
    """What a process takes that imports a module in a folder."""
    environment = dict(os.environ, EDGE_ASSETS_HOME=str(state), PYTHONPATH=str(ROOT))
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", f"import {module}"], cwd=folder, env=environment, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


if __name__ == "__main__":
    main()
