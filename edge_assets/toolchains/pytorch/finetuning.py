"""The training loop of quantization-aware training: seeded, watched, and resumable after every epoch.

An epoch depends on what the one before it left and on nothing else: its order of samples and its dropout are seeded by
its number, and the learning rate is a function of the step. So a run that was killed goes on from its last finished
epoch and ends with the very weights of one that was not.

The last third of the epochs trains with fixed ranges, fixed BatchNorm statistics and no dropout, so that the weights
settle on what the exported model will compute with.
"""

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edge_assets.errors import Refused
from edge_assets.spec.model import FineTuning
from edge_assets.spec.source import call
from edge_assets.toolchains.pytorch.eager import as_tuple

if TYPE_CHECKING:
    import torch

STATE = "training.pt"
HELD_OUT, MOST_HELD_OUT = 0.1, 512  # share of the samples that each epoch is judged on, and the most of them
OBSERVED = 8  # batches whose ranges training starts from
REPORTS = 5  # lines of progress within an epoch

Tensors = Mapping[str, "torch.Tensor"]
Loss = Callable[[Tensors, "torch.Tensor"], "torch.Tensor"]


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave. Number 0 is the start: observed ranges, the checkpoint's weights."""

    number: int
    loss: float | None  # mean over the epoch's steps
    held_out_loss: float
    held_out_accuracy: float | None  # share of right classes; only of a classifier
    seconds: float


@dataclass
class Progress:
    """The state of a run after an epoch: what training goes on from, and the best epoch's weights."""

    model: dict[str, "torch.Tensor"]
    optimizer: dict[str, object]
    best: dict[str, "torch.Tensor"]
    history: list[Epoch] = field(default_factory=list)
    stopped: str | None = None  # why training ended before its last epoch

    @property
    def best_epoch(self) -> Epoch:
        """Of the trained ones, that with the smallest loss on the held-out samples."""
        return min(self.history[1:], key=lambda epoch: epoch.held_out_loss)


@dataclass(frozen=True)
class Modes:
    """How the model is switched, which an exported graph has no `train()` for."""

    observe: Callable[[], None]  # ranges move
    train: Callable[[], None]  # ranges and BatchNorm statistics move, dropout drops
    fix: Callable[[], None]  # none of it: for the last epochs, and to judge


@dataclass(frozen=True)
class Samples:
    """Inputs by position and labels, of one length."""

    inputs: tuple["torch.Tensor", ...]
    labels: "torch.Tensor"

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: "torch.Tensor") -> "Samples":
        """The samples at `index`, int64 [n]."""
        inputs = tuple(array[index] for array in self.inputs)
        return Samples(inputs, self.labels[index])


def fine_tune(
    model: "torch.nn.Module",
    modes: Modes,
    samples: Samples,
    outputs: Sequence[str],
    classifies: bool,
    recipe: FineTuning,
    kept: Path,
    log: Callable[[str], None],
) -> Progress:
    """Train `model` in place on all but a held-out part of `samples`, going on from what is in the folder `kept`.

    With `classifies` the largest value of the first output is held against the label, as top1_accuracy does. A loss
    that is NaN or infinite ends training, and the best epoch before it stands. Raises Refused if there is none.
    """
    import torch

    training, held_out = split(samples, recipe.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate)
    task = _Task(
        model=model,
        modes=modes,
        optimizer=optimizer,
        loss=loss_of(recipe.loss),
        outputs=tuple(outputs),
        classifies=classifies,
        recipe=recipe,
        log=log,
    )
    with torch.random.fork_rng(devices=[]):
        progress = _resume(kept, model, optimizer) or _start(task, training, held_out)
        done = len(progress.history) - 1
        if done:
            log(f"fine-tuning goes on after epoch {done} of {recipe.epochs}")
        for number in range(done + 1, recipe.epochs + 1):
            if progress.stopped:
                break
            try:
                _epoch(task, progress, number, training, held_out)
            except _Diverged as reason:
                _stop(task, progress, str(reason))
            _save(progress, kept / STATE)
    load_state(model, progress.best)
    modes.fix()
    return progress


@dataclass(frozen=True)
class _Task:
    model: "torch.nn.Module"
    modes: Modes
    optimizer: "torch.optim.Optimizer"
    loss: Loss
    outputs: tuple[str, ...]
    classifies: bool
    recipe: FineTuning
    log: Callable[[str], None]

    def run(self, batch: Samples) -> dict[str, "torch.Tensor"]:
        results = as_tuple(self.model(*batch.inputs))
        return dict(zip(self.outputs, results, strict=True))


class _Diverged(Exception):
    """A loss that training cannot go on from: NaN or infinite."""


def split(samples: Samples, seed: int) -> tuple[Samples, Samples]:
    """Samples to train on, and those held out to judge each epoch."""
    import torch

    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    count = min(MOST_HELD_OUT, max(1, int(HELD_OUT * len(samples))))
    return samples.take(order[count:]), samples.take(order[:count])


def loss_of(name: str) -> Loss:
    """The built-in loss or the function `package.module:function` names."""
    if ":" in name:
        return partial(call, name, "loss")
    from torch.nn.functional import cross_entropy

    return lambda outputs, labels: cross_entropy(next(iter(outputs.values())), labels)


def learning_rate(recipe: FineTuning, step: int, steps: int) -> float:
    """Half a cosine from the recipe's learning rate to zero; `step` counts from 0 over all epochs."""
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))


def settles(recipe: FineTuning, number: int) -> bool:
    """Whether epoch `number` is of the last third, and not the first."""
    return number > max(1, 2 * recipe.epochs / 3)


def _start(task: _Task, training: Samples, held_out: Samples) -> Progress:
    """Ranges observed on a few batches with the checkpoint's weights: what training starts from, as epoch 0."""
    import torch

    begun = time.monotonic()
    task.modes.observe()
    with torch.no_grad():
        for index in torch.arange(len(training)).split(task.recipe.batch_size)[:OBSERVED]:
            task.run(training.take(index))
    loss, accuracy = _judge(task, held_out)
    task.log(f"fine-tuning starts at a held-out loss of {loss:.4f}{_percent(accuracy)}")
    state = _copy(task.model.state_dict())
    first = Epoch(0, None, loss, accuracy, time.monotonic() - begun)
    return Progress(state, task.optimizer.state_dict(), state, [first])


def _epoch(
    task: _Task,
    progress: Progress,
    number: int,
    training: Samples,
    held_out: Samples,
) -> None:
    """Train one epoch and judge it; `progress` is then what it is after that epoch. Raises _Diverged."""
    begun = time.monotonic()
    loss = _train(task, number, training)
    held_out_loss, accuracy = _judge(task, held_out)
    if not math.isfinite(held_out_loss):
        raise _Diverged(f"the loss on the held-out samples is {held_out_loss} after epoch {number}")
    epoch = Epoch(number, loss, held_out_loss, accuracy, time.monotonic() - begun)
    progress.history.append(epoch)
    progress.model = _copy(task.model.state_dict())
    progress.optimizer = task.optimizer.state_dict()
    if progress.best_epoch is epoch:
        progress.best = progress.model
    task.log(
        f"epoch {number} of {task.recipe.epochs} in {epoch.seconds:.0f} s: loss {loss:.4f}, "
        f"held-out loss {held_out_loss:.4f}{_percent(accuracy)}"
    )


def _train(task: _Task, number: int, training: Samples) -> float:
    """Train one epoch; returns the mean loss of its steps. Raises _Diverged for a loss that is NaN or infinite."""
    import torch

    recipe = task.recipe
    if settles(recipe, number):
        task.modes.fix()
    else:
        task.modes.train()
    torch.manual_seed((recipe.seed << 16) + number)
    size = min(recipe.batch_size, len(training))
    batches = [index for index in torch.randperm(len(training)).split(size) if len(index) == size]
    losses: list[float] = []
    for step, index in enumerate(batches):
        rate = learning_rate(recipe, (number - 1) * len(batches) + step, recipe.epochs * len(batches))
        for group in task.optimizer.param_groups:
            group["lr"] = rate
        batch = training.take(index)
        loss = task.loss(task.run(batch), batch.labels)
        if not torch.isfinite(loss):
            raise _Diverged(f"the loss is {loss.item()} in epoch {number}, step {step + 1} of {len(batches)}")
        task.optimizer.zero_grad()
        loss.backward()
        task.optimizer.step()
        losses.append(loss.item())
        if (step + 1) % max(1, len(batches) // REPORTS) == 0:
            task.log(f"epoch {number} of {recipe.epochs}, step {step + 1} of {len(batches)}: loss {losses[-1]:.4f}")
    return sum(losses) / len(losses)


def _stop(task: _Task, progress: Progress, reason: str) -> None:
    """Keep the best epoch. Raises Refused if none was finished."""
    advice = f"Lower finetuning.learning_rate ({task.recipe.learning_rate:g}), or look for such values in the data"
    if len(progress.history) == 1:
        raise Refused(f"fine-tuning diverged before any epoch was finished: {reason}. {advice}.")
    progress.stopped = f"{reason}; epoch {progress.best_epoch.number} is kept. {advice}."
    task.log(f"fine-tuning diverged: {progress.stopped}")


def _judge(task: _Task, held_out: Samples) -> tuple[float, float | None]:
    """Mean loss of the held-out samples, and the share of right classes where the model is a classifier."""
    import torch

    task.modes.fix()
    total = 0.0
    right = 0
    with torch.no_grad():
        for index in torch.arange(len(held_out)).split(task.recipe.batch_size):
            batch = held_out.take(index)
            outputs = task.run(batch)
            total += task.loss(outputs, batch.labels).item() * len(index)
            if task.classifies:
                classes = next(iter(outputs.values())).argmax(-1)
                right += int((classes == batch.labels).sum())
    accuracy = right / len(held_out) if task.classifies else None
    return total / len(held_out), accuracy


def _percent(accuracy: float | None) -> str:
    return "" if accuracy is None else f", held-out accuracy {100 * accuracy:.2f} %"


# --- what is kept --------------------------------------------------------------------------------------


def _copy(state: Tensors) -> dict[str, "torch.Tensor"]:
    return {name: tensor.clone() for name, tensor in state.items()}


def load_state(model: "torch.nn.Module", state: Tensors) -> None:
    """Load a state that was written without its format's version, as the model's own.

    Observers take a state of no version for an old one, and replace its smallest scale by their default.
    """
    versioned = model.state_dict()
    assert versioned.keys() == state.keys(), "the state is of another model"
    versioned.update(state)
    model.load_state_dict(versioned)


def _save(progress: Progress, path: Path) -> None:
    """Write the state in one rename: a run killed meanwhile goes on from the epoch before."""
    import torch

    state = {
        "model": progress.model,
        "optimizer": progress.optimizer,
        "best": progress.best,
        "stopped": progress.stopped,
        "history": [asdict(epoch) for epoch in progress.history],
    }
    partial_file = path.with_suffix(".partial")
    with partial_file.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial_file, path)


def _resume(
    kept: Path,
    model: "torch.nn.Module",
    optimizer: "torch.optim.Optimizer",
) -> Progress | None:
    """What an earlier run of the same recipe left, loaded into `model` and `optimizer`."""
    import torch

    path = kept / STATE
    if not path.exists():
        return None
    state = torch.load(path, weights_only=True)
    progress = Progress(
        model=state["model"],
        optimizer=state["optimizer"],
        best=state["best"],
        history=[Epoch(**epoch) for epoch in state["history"]],
        stopped=state["stopped"],
    )
    load_state(model, progress.model)
    optimizer.load_state_dict(progress.optimizer)
    return progress


# --- what is shown -------------------------------------------------------------------------------------


def write_history(progress: Progress, recipe: FineTuning, path: Path) -> None:
    """The recipe and every epoch as JSON."""
    history = {
        "recipe": asdict(recipe),
        "best_epoch": progress.best_epoch.number,
        "stopped": progress.stopped,
        "epochs": [asdict(epoch) for epoch in progress.history],
    }
    path.write_text(json.dumps(history, indent=1) + "\n")


def draw(progress: Progress, path: Path) -> None:
    """Losses by epoch, and beside them the held-out accuracy where there is one; the kept epoch is marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs, best = progress.history, progress.best_epoch
    numbers = [epoch.number for epoch in epochs]
    accuracies = []
    for epoch in epochs:
        if epoch.held_out_accuracy is not None:
            accuracies.append(100 * epoch.held_out_accuracy)
    figure = Figure(figsize=(9 if accuracies else 4.5, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    (panels,) = figure.subplots(1, 2 if accuracies else 1, squeeze=False)
    losses = panels[0]
    losses.plot(
        numbers[1:],
        [epoch.loss for epoch in epochs[1:]],
        "o-",
        color="#57606a",
        label="training",
    )
    losses.plot(
        numbers,
        [epoch.held_out_loss for epoch in epochs],
        "o-",
        color="#0969da",
        label="held out",
    )
    losses.set_ylabel("mean loss")
    losses.legend()
    if accuracies:
        panels[1].plot(numbers, accuracies, "o-", color="#0969da")
        panels[1].set_ylabel("accuracy on held-out samples (%)")
    for axes in panels:
        axes.axvline(best.number, color="#bf8700", linewidth=0.8)
        axes.set_xlabel("epoch (0: before training)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(f"Fine-tuning with fake quantization; epoch {best.number} is kept", fontsize=10)
    figure.savefig(path, dpi=110, metadata={"Software": None})
