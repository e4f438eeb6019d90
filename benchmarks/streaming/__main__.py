"""Memory and time of a large evaluation set, against a loop written by hand over the same runtimes.

    python -m benchmarks.streaming [--images 20000] [--rounds 1] [--compared 20000]

ResNet-18 with drawn weights and a fitted last layer; images of 224 x 224 are drawn when they are asked for, on both
sides. First a build, as users have it: PyTorch eager, the fp32 and the int8 graph for x86-64-vnni, each evaluated on
the whole set; memory is that of its process tree, sampled ten times a second. Then, in another process, the same three
files by turns: evaluated once more by the product, and by hand, batch after batch, for the accuracy. So whatever else
the machine does hits both alike, and most so in several rounds of fewer images (`--compared`).
"""

import argparse
import json
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.overhead import Usage, run
from benchmarks.streaming.data import CLASSES, Images, evaluation
from benchmarks.streaming.spec import RESNET
from edge_assets.core.progress import duration
from edge_assets.core.verify.evaluate import VerificationRequest, evaluate
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


def build(folder: Path) -> None:
    """Build the reference and two variants, each evaluated on the whole set, and write how to evaluate them again."""
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
        files[name] = cell.verification.request(loadable, samples=int(os.environ["STREAMING_COMPARED"]))
    with (folder / "requests.pickle").open("wb") as file:
        pickle.dump(files, file)
    (folder / "built.json").write_text(json.dumps({"reading_seconds": cell.data.evaluation.seconds}))


def compared(folder: Path) -> None:
    """Evaluate the same files by turns, as the product does and by hand, and write what each took."""
    with (folder / "requests.pickle").open("rb") as file:
        files = pickle.load(file)
    found = []
    for turn in range(int(os.environ["STREAMING_ROUNDS"])):
        for name, request in files.items():
            sides = [accuracy_by_product, accuracy_by_hand]
            if turn % 2:
                sides.reverse()
            for side in sides:
                started, cpu_started = time.perf_counter(), time.process_time()
                accuracy = side(request)
                took = {
                    "file": name,
                    "side": side.__name__,
                    "seconds": time.perf_counter() - started,
                    "cpu_seconds": time.process_time() - cpu_started,
                    "accuracy": accuracy,
                }
                print(took, flush=True)
                found.append(took)
    (folder / "compared.json").write_text(json.dumps(found))


def accuracy_by_product(request: VerificationRequest) -> float:
    """Top-1 accuracy, as a build evaluates a variant."""
    return evaluate(request).accuracy.value


def accuracy_by_hand(request: VerificationRequest) -> float:
    """Top-1 accuracy, batch after batch."""
    images = evaluation()
    images.count = int(os.environ["STREAMING_COMPARED"])
    session = request.loadable.open(this_machine().cores)
    hits = 0
    for start in range(0, len(images), BATCH):
        feeds, labels = batch_of(images, start, start + BATCH)
        logits = session.run({"image": feeds})["logits"]
        hits += int((logits.argmax(axis=1) == labels).sum())
    return hits / len(images)


SIDES: dict[str, Callable[[Path], None]] = {"checkpoint": make_checkpoint, "build": build, "compare": compared}


# --- both ----------------------------------------------------------------------------------------------


def main() -> None:
    """Build, compare, and print what was taken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--compared", type=int, help="images of each turn; default: all")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        SIDES[arguments.side](arguments.folder)
        return
    os.environ["STREAMING_IMAGES"] = str(arguments.images)
    os.environ["STREAMING_ROUNDS"] = str(arguments.rounds)
    compared_images = min(arguments.compared or arguments.images, arguments.images)
    os.environ["STREAMING_COMPARED"] = str(compared_images)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        usage = {}
        for side in SIDES:
            place = folder / "resnet18.safetensors" if side == "checkpoint" else folder
            command = [sys.executable, "-m", "benchmarks.streaming", "--side", side, "--folder", str(place)]
            usage[side] = run(command, folder / "home", folder / f"{side}.log", sample=True)
            print(f"{side}: {duration(usage[side].wall_seconds)}", flush=True)
        report(arguments.images, compared_images, folder, usage["build"])


def report(images: int, compared_images: int, folder: Path, usage: Usage) -> None:
    """Memory and time, each with its target."""
    turns = json.loads((folder / "compared.json").read_text())
    machine = this_machine()
    print(
        f"{images:,} images through ResNet-18 on {machine.cpu}, {machine.cores} cores; {compared_images:,} in each turn"
    )
    for name in dict.fromkeys(turn["file"] for turn in turns):
        ours, by_hand = (summed(turns, name, side) for side in (accuracy_by_product, accuracy_by_hand))
        ratio = ours["seconds"] / by_hand["seconds"]
        cpu_ratio = ours["cpu_seconds"] / by_hand["cpu_seconds"]
        verdict = "met" if ratio <= RATIO else "missed"
        print(
            f"{name:8} {ours['seconds']:8.1f} s, by hand {by_hand['seconds']:8.1f} s, ratio {ratio:.2f}, "
            f"target {RATIO}: {verdict}; CPU seconds {ours['cpu_seconds']:.1f} and {by_hand['cpu_seconds']:.1f}, "
            f"ratio {cpu_ratio:.2f}; accuracy {ours['accuracy']:.4f} and {by_hand['accuracy']:.4f}"
        )
    print(f"load average {os.getloadavg()[0]:.1f}: other work on the machine takes from both sides")
    built = json.loads((folder / "built.json").read_text())
    print(f"reading and hashing the set once: {built['reading_seconds']:.1f} s")
    peak = usage.peak_bytes or 0
    verdict = "met" if peak < MEMORY else "missed"
    print(f"peak memory of the process tree {peak / 2**20:,.0f} MiB, target {MEMORY / 2**20:,.0f} MiB: {verdict}")


def summed(turns: Sequence[Mapping[str, Any]], name: str, side: Callable[..., float]) -> dict[str, float]:
    """What one side took for one file in all rounds; the accuracy is that of each."""
    mine = [turn for turn in turns if turn["file"] == name and turn["side"] == side.__name__]
    return {
        "seconds": sum(turn["seconds"] for turn in mine),
        "cpu_seconds": sum(turn["cpu_seconds"] for turn in mine),
        "accuracy": mine[0]["accuracy"],
    }


if __name__ == "__main__":
    main()
