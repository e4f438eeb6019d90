"""How the checkpoint sensor does with many files: ticks and seconds until they have settled, and an idle tick after.

    python -m benchmarks.sensor [--history 100000] [--new 1000]

First a folder of `--history` small checkpoints is taken up, of which only the newest is built; then `--new` arrive at
once, each of which is asked for on every target of the model. The store is a folder of this machine, the Dagster
instance an SQLite file, as by default. Ticks follow each other without the interval between them, which is added to the
minutes.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import numpy as np
from safetensors.numpy import save_file

from edge_assets.defs.arrivals import Cursor, look
from edge_assets.defs.sensors import INTERVAL
from edge_assets.spec.model import Automation, ModelSpec
from examples.digits.spec import DIGITS
from resources.store import ArtifactStore, open_store


def main() -> None:
    """Print how long a sensor's ticks take while so many files are new, first the history, then more."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--history", type=int, default=100_000)
    parser.add_argument("--new", type=int, default=1_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "checkpoints").mkdir()
        spec = replace(DIGITS, checkpoints=str(folder / "checkpoints"), automation=Automation())
        store = open_store(str(folder / "store"), folder / "cache")
        with dg.DagsterInstance.local_temp(str(folder)) as instance:
            cursor = Cursor()
            for first, count in ((0, arguments.history), (arguments.history, arguments.new)):
                write(folder / "checkpoints", first, count)
                seconds = []
                for answered, taken in settle(spec, store, instance, cursor):
                    cursor = answered
                    seconds.append(taken)
                minutes = (sum(seconds) + INTERVAL * len(seconds)) / 60
                print(f"{count} files: {len(seconds)} ticks, the longest {max(seconds):.1f} s, {minutes:.1f} minutes")
                print(f"cursor: {len(cursor.write())} bytes")
                for _ in range(3):
                    started = time.perf_counter()
                    look(spec, store, instance, cursor, print)
                    print(f"a tick with nothing to do: {time.perf_counter() - started:.2f} s")


def write(folder: Path, first: int, count: int) -> None:
    """Checkpoints of four bytes of weights, each its own."""
    save_file({"weight": np.zeros(1, np.float32)}, folder / "template")
    content = (folder / "template").read_bytes()[:-4]
    (folder / "template").unlink()
    for number in range(first, first + count):
        (folder / f"step{number}.safetensors").write_bytes(content + number.to_bytes(4, "little"))


def settle(
    spec: ModelSpec, store: ArtifactStore, instance: dg.DagsterInstance, cursor: Cursor
) -> Iterator[tuple[Cursor, float]]:
    """Tick until nothing waits: each tick's cursor and seconds."""
    while True:
        started = time.perf_counter()
        answer = look(spec, store, instance, cursor, print)
        seconds = time.perf_counter() - started
        instance.add_dynamic_partitions(f"{spec.name}_checkpoints", answer.partitions)
        cursor = answer.cursor
        yield cursor, seconds
        if not cursor.waiting:
            return


if __name__ == "__main__":
    main()
