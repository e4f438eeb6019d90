"""What a device's agent costs beside a worker of this machine: `python -m benchmarks.devices [--queries 600]`.

A real SSH server on loopback, its agent, and a local worker, with the digits example's fp32 graph, in turns in one run:
medians and 90th percentiles of both, and their ratio. Then a lease with the staging of a model of 2 MB, the first time
and the second. The target is 2 % for the median, 3 s and 1 s.
"""

import argparse
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from edge_assets.core.benchmark.harness import Contestant, Turn, Worker, WorkerProcess
from edge_assets.core.datasets.npz import save_arrays
from edge_assets.core.session import Loadable
from edge_assets.core.shapes import read
from edge_assets.core.types import Artifact, File
from edge_assets.devices.inventory import Device, Limits
from edge_assets.devices.lease import leased
from edge_assets.devices.session import DeviceLoadable, DeviceWorker
from edge_assets.devices.transfer import send_artifact
from edge_assets.hashing import sha256_of
from tests.devices.sshd import sshd

TURN = 1.0  # seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="an ONNX file with one input `image`, such as a release's model.onnx")
    parser.add_argument("--queries", type=int, default=600, help="of each, at least")
    parser.add_argument("--shape", default="1,32,32", help="of one sample")
    given = parser.parse_args()
    shape = [int(size) for size in given.shape.split(",")]
    with tempfile.TemporaryDirectory() as scratch, sshd(Path(scratch)) as server:
        device = Device(
            name="loopback",
            target="x86-64-vnni",
            address=server.address,
            interpreter=sys.executable,
            folder=f"{scratch}/on-device",
            limits=Limits(load=os.cpu_count() or 1),
            ssh_config=server.config,
        )
        staging(device, Path(scratch))
        interleaved(device, given.model, shape, given.queries, Path(scratch))


def staging(device: Device, scratch: Path) -> None:
    """Seconds until a leased device has a model of 2 MB."""
    path = scratch / "weights.bin"
    path.write_bytes(os.urandom(2 * 10**6))
    artifact = Artifact((File(path.name, sha256_of(path), path.stat().st_size),))
    for name in ("first time", "second time"):
        began = time.perf_counter()
        with leased(device, "benchmark", print) as readiness:
            send_artifact(readiness.connection, artifact, path)
            print(f"lease and staging of 2 MB, {name}: {time.perf_counter() - began:.2f} s")


def interleaved(device: Device, model: Path, shape: list[int], queries: int, scratch: Path) -> None:
    """Latencies of both in turns."""
    options = {"inputs": ["image"], "outputs": ["logits"]}
    here = Loadable("onnx", str(model), options)
    artifact = Artifact((File(model.name, sha256_of(model), model.stat().st_size),))
    there = DeviceLoadable(runtime="onnx", path=str(model), options=options, artifact=artifact, device=device)
    inputs = scratch / "inputs.npz"
    save_arrays({"image": np.random.default_rng(0).normal(size=(64, *shape)).astype(np.float32)}, inputs)
    with ExitStack() as stack:
        workers: dict[str, Worker] = {
            "local worker": stack.enter_context(WorkerProcess(Contestant("local", "0" * 64, here), inputs)),
            "agent over SSH": stack.enter_context(DeviceWorker(Contestant("agent", "0" * 64, there), inputs)),
        }
        times: dict[str, list[float]] = {}
        for name, worker in workers.items():
            worker.load(1)
            worker.ask("warm_up", batch=1, longest=400)
            times[name] = []
        while min(len(found) for found in times.values()) < queries:
            for name, worker in workers.items():
                turn = read(Turn, worker.ask("time", batch=1, queries=10**6, seconds=TURN))
                times[name] += turn.ms
    medians = {}
    for name, found in times.items():
        medians[name] = float(np.percentile(found, 50))
        print(f"{name:16} {len(found):6} queries  P50 {medians[name]:.4f} ms  P90 {np.percentile(found, 90):.4f} ms")
    print(f"P50 over SSH / local: {medians['agent over SSH'] / medians['local worker']:.4f}")


if __name__ == "__main__":
    main()
