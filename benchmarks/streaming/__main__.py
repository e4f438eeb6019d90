"""Memory and time of a large evaluation set, against a loop written by hand over the same runtimes.

    python -m benchmarks.streaming [--images 20000]

ResNet-18 with drawn weights and a fitted last layer; images of 224 x 224 are drawn when they are asked for, on both
sides. Ours: PyTorch eager, the fp32 and the int8 graph for x86-64-vnni, each evaluated on the whole set. By hand: the
same three files, batch after batch, and the accuracy of each. Both run in fresh processes; memory is that of the
process tree, sampled ten times a second.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.overhead import Usage, run
from benchmarks.streaming.data import CLASSES, Images
from benchmarks.streaming.spec import RESNET
from edge_assets.core.session import Loadable, Session, session_options
from edge_assets.core.verify.evaluate import evaluate
from edge_assets.families.cpu import CPU
from edge_assets.pipeline.cell import Cell
from edge_assets.targets import this_machine
from edge_assets.targets.project import target
from resources import checkpoints
from resources.store import open_store

MEMORY, RATIO = 3 * 2**30, 1.15  # targets
BATCH = 64
FITTED = 400  # images that the last layer is fitted to


def make_checkpoint(path: Path) -> None:
    """Drawn weights, and a last layer that tells the patterns apart (ridge regression on the features)."""
    import torch
    from safetensors.torch import save_file

    from benchmarks.streaming.network import ResNet18

    torch.manual_seed(0)
    model = ResNet18()
    images = Images(FITTED, seed=1)
    feeds, labels = batch_of(images, 0, FITTED)
    with torch.no_grad():
        model.train()  # statistics of the batch norms
        for start in range(0, FITTED, BATCH):
            model.features(torch.from_numpy(feeds[start : start + BATCH]))
        model.eval()
        parts = [model.features(torch.from_numpy(part)) for part in np.array_split(feeds, 8)]
        found = torch.cat(parts).double()
        mean = found.mean(dim=0)
        wanted = torch.nn.functional.one_hot(torch.from_numpy(labels), CLASSES).double() - 0.5
        centred = found - mean
        weight = torch.linalg.solve(centred.T @ centred + torch.eye(512).double(), centred.T @ wanted)
        model.fc.weight.zero_()
        model.fc.bias.fill_(-5.0)
        model.fc.weight[:CLASSES] = weight.T.float()
        model.fc.bias[:CLASSES] = -(mean @ weight).float()
    save_file(model.state_dict(), path)


def batch_of(images: Images, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels of some images, as one writes it by hand."""
    samples = [images[position] for position in range(start, min(stop, len(images)))]
    raw = np.stack([sample["image"] for sample in samples])
    labels = np.array([int(sample["label"]) for sample in samples])
    feeds = RESNET.preprocess.apply({"image": raw})["image"]
    return feeds, labels


# --- the two sides -------------------------------------------------------------------------------------


def ours(folder: Path) -> None:
    """Evaluate the reference and two variants as a build does, and write what each took."""
    store = open_store(str(folder / "store"), folder / "cache")
    checkpoint = checkpoints.register(store, RESNET.name, str(folder / "resnet18.safetensors"))
    cell = Cell(RESNET, CPU, target("x86-64-vnni"), checkpoint, store, print)
    reference = cell.reference.build()
    model = cell.family.variant("onnx_model")
    graph = cell.variants.build(model, reference)
    int8 = cell.variants.build(cell.family.variant("onnx_int8_static"), graph)
    files = {}
    for name, built in (("pytorch", reference), ("fp32", graph), ("int8", int8)):
        if built.evidence is None or built.accuracy is None or built.build.artifact is None:
            sys.exit(f"{name}: {built.failed or built.unverified or built.build.refused}")
        loadable = cell.verification.loadable(built.runtime, built.build)
        started, cpu_started = time.perf_counter(), time.process_time()
        verified = evaluate(cell.verification.request(loadable))
        files[name] = {
            "runtime": loadable.runtime,
            "path": loadable.path,
            "options": dict(loadable.options),
            "seconds": time.perf_counter() - started,
            "cpu_seconds": time.process_time() - cpu_started,
            "accuracy": verified.accuracy.value,
        }
    data = {"seconds": cell.data.evaluation.seconds}
    (folder / "ours.json").write_text(json.dumps({"files": files, "data": data}))


def by_hand(folder: Path) -> None:
    """Run the same files over the same images, and write what each took."""
    made = json.loads((folder / "ours.json").read_text())["files"]
    images = Images(int(os.environ["STREAMING_IMAGES"]), seed=2)
    found = {}
    for name, entry in made.items():
        started, cpu_started = time.perf_counter(), time.process_time()
        options = session_options(RESNET, entry["runtime"], target("x86-64-vnni")) | entry["options"]
        session = Loadable(entry["runtime"], entry["path"], options).open(this_machine().cores)
        accuracy = accuracy_by_hand(session, images)
        found[name] = {
            "seconds": time.perf_counter() - started,
            "cpu_seconds": time.process_time() - cpu_started,
            "accuracy": accuracy,
        }
        print(name, found[name], flush=True)
    (folder / "by_hand.json").write_text(json.dumps(found))


def accuracy_by_hand(session: Session, images: Images) -> float:
    """Top-1 accuracy, batch after batch."""
    hits = 0
    for start in range(0, len(images), BATCH):
        feeds, labels = batch_of(images, start, start + BATCH)
        logits = session.run({"image": feeds})["logits"]
        hits += int((logits.argmax(axis=1) == labels).sum())
    return hits / len(images)


SIDES: dict[str, Callable[[Path], None]] = {"ours": ours, "by_hand": by_hand, "checkpoint": make_checkpoint}


# --- both ----------------------------------------------------------------------------------------------


def main() -> None:
    """Run both sides and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        SIDES[arguments.side](arguments.folder)
        return
    os.environ["STREAMING_IMAGES"] = str(arguments.images)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        usage = {}
        for side in ("checkpoint", "ours", "by_hand"):
            place = folder / "resnet18.safetensors" if side == "checkpoint" else folder
            command = [sys.executable, "-m", "benchmarks.streaming", "--side", side, "--folder", str(place)]
            usage[side] = run(command, folder / "home", folder / f"{side}.log", sample=True)
        report(arguments.images, folder, usage["ours"])


def report(images: int, folder: Path, usage: Usage) -> None:
    """Memory and time, each with its target."""
    made = json.loads((folder / "ours.json").read_text())
    found = json.loads((folder / "by_hand.json").read_text())
    machine = this_machine()
    print(f"{images:,} images through ResNet-18 on {machine.cpu}, {machine.cores} cores")
    for name, entry in made["files"].items():
        hand = found[name]
        ratio, cpu_ratio = entry["seconds"] / hand["seconds"], entry["cpu_seconds"] / hand["cpu_seconds"]
        verdict = "met" if ratio <= RATIO else "missed"
        print(
            f"{name:8} {entry['seconds']:8.1f} s, by hand {hand['seconds']:8.1f} s, ratio {ratio:.2f}, target {RATIO}: "
            f"{verdict}; CPU seconds {entry['cpu_seconds']:.1f} and {hand['cpu_seconds']:.1f}, ratio {cpu_ratio:.2f}; "
            f"accuracy {entry['accuracy']:.4f} and {hand['accuracy']:.4f}"
        )
    print(
        f"load average {os.getloadavg()[0]:.1f}: other work on the machine makes wall times of different moments differ"
    )
    print(f"reading and hashing the set once: {made['data']['seconds']:.1f} s")
    peak = usage.peak_bytes or 0
    verdict = "met" if peak < MEMORY else "missed"
    print(f"peak memory of the process tree {peak / 2**20:,.0f} MiB, target {MEMORY / 2**20:,.0f} MiB: {verdict}")


if __name__ == "__main__":
    main()
