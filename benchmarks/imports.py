"""What loading the definitions takes beside Dagster's own import: `python -m benchmarks.imports [--rounds 7]`.

CPU seconds, user and system, of fresh processes that take turns, so that what disturbs the machine disturbs all alike:
`import dagster`, the definitions in a project without models, and the definitions with the models that are registered
where this runs. A first round, which writes Python's bytecode, does not count. Medians until the import is done, and of
the whole process with its end, and how many times Dagster's each is.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]


@dataclass
class Import:
    """A module, the folder that it is imported in, and CPU seconds of each round."""

    name: str
    module: str
    folder: Path
    imported: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)


def main() -> None:
    """Print a line for each import."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    imports = measured(parser.parse_args().rounds, Path.cwd())
    dagster = imports[0]
    print(f"{'':32} {'imported':>8} {'times':>6} {'whole':>8} {'times':>6}")
    for each in imports:
        row = f"{each.name:32}"
        for seconds, base in ((each.imported, dagster.imported), (each.whole, dagster.whole)):
            row += f" {median(seconds):8.3f} {median(seconds) / median(base):6.2f}"
        print(row)


def measured(rounds: int, project: Path) -> list[Import]:
    """Dagster, the definitions without models, and those with the models that are registered in `project`."""
    with tempfile.TemporaryDirectory() as temporary:
        empty = Path(temporary)
        imports = [
            Import("dagster", "dagster", empty),
            Import("definitions, no models", "edge_assets.definitions", empty),
            Import("definitions, registered models", "edge_assets.definitions", project),
        ]
        for turn in range(rounds + 1):
            for each in imports:
                imported, whole = cpu_seconds(each.module, each.folder, state=empty)
                if turn > 0:
                    each.imported.append(imported)
                    each.whole.append(whole)
    return imports


def cpu_seconds(module: str, folder: Path, state: Path) -> tuple[float, float]:
    """What a process takes that imports a module in a folder: until that is done, and with its end."""
    environment = dict(os.environ, EDGE_ASSETS_HOME=str(state), PYTHONPATH=str(ROOT))
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    code = f"import {module}, time; print(time.process_time())"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    whole = (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)
    return float(result.stdout), whole


if __name__ == "__main__":
    main()
