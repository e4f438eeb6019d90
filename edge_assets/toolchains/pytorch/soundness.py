"""Is PyTorch eager a reference at all? Asked on a few samples, before anything slow.

Everything is compared with the model's own outputs, so it has to have some: the same for the same sample, whatever
ran before, whatever is in the batch with it, and whichever of PyTorch's paths computes it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from edge_assets.core.session import Feeds, Session
from edge_assets.core.verify.parity import compare
from edge_assets.errors import ReferenceFault, told

if TYPE_CHECKING:
    import torch

SAMPLES = 5
LEAST_SNR_DB = 50.0  # rounding in another order leaves 100 dB and more in fp32
MOST_UNEQUAL = 0.01  # of whole numbers, which a near tie flips
KEEPS_NO_STATE = "A model keeps nothing between calls: take the state as an input and give it back as an output."


def check(model: "torch.nn.Module", session: Session, feeds: Feeds) -> None:
    """Ask `session`, which runs `model`, for at most five samples of `feeds` again and again.

    Raises ReferenceFault, one sentence that names the kind of fault and its remedy.
    """
    few = {name: array[:SAMPLES] for name, array in feeds.items()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    expected = _run_on_copies(session, few)
    _check_buffers(model, buffers)
    _check_repeats(session, few, expected)
    _check_fast_path(model, session, few, expected)
    _check_alone(session, few, expected)


# --- between calls -------------------------------------------------------------------------------------


def _run_on_copies(session: Session, feeds: Feeds) -> dict[str, np.ndarray]:
    """The outputs. Raises ReferenceFault if the model wrote into its inputs."""
    given = {name: array.copy() for name, array in feeds.items()}
    outputs = session.run(given)
    kept = {name: array.copy() for name, array in outputs.items()}  # an output may be a view of a buffer
    changed = [name for name, array in given.items() if not np.array_equal(array, feeds[name], equal_nan=True)]
    if changed:
        raise ReferenceFault(
            f"the model changes its input {_listed(changed)}: an operation in place (relu_, +=, masked_fill_, or an "
            f"assignment to a slice) writes into what it was given. Use the form that returns a new tensor, or clone "
            f"the input first."
        )
    return kept


def _check_buffers(model: "torch.nn.Module", before: Mapping[str, "torch.Tensor"]) -> None:
    import torch

    after = dict(model.named_buffers())
    changed = []
    for name, buffer in after.items():
        earlier = before.get(name)
        if earlier is None or earlier.shape != buffer.shape or not torch.equal(earlier, buffer):
            changed.append(name)
    if not changed:
        return
    if any(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in changed):
        raise ReferenceFault(
            f"the model changes its buffer {_listed(changed)}: a normalisation is in training mode after eval(). Let "
            f"forward() call no train(), and let eval() reach every module."
        )
    raise ReferenceFault(f"the model changes its buffer {_listed(changed)} in each call. {KEEPS_NO_STATE}")


def _check_repeats(session: Session, feeds: Feeds, expected: Feeds) -> None:
    """The same samples give the same outputs again."""
    import torch

    found = _first_difference(expected, _run_on_copies(session, feeds))
    if found is None:
        return
    seeded = []
    for _ in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            seeded.append(_run_on_copies(session, feeds))
    if _first_difference(seeded[0], seeded[1]) is None:
        raise ReferenceFault(
            f"two runs on the same samples differ, {found}: something random is left on (dropout without "
            f"training=self.training, noise, sampling). Switch it off in eval mode."
        )
    raise ReferenceFault(
        f"two runs on the same samples differ, {found}, with the same random numbers too: the second call depends on "
        f"the first. {KEEPS_NO_STATE}"
    )


# --- one sample and many -------------------------------------------------------------------------------


def _check_alone(session: Session, feeds: Feeds, expected: Feeds) -> None:
    """Each sample alone gives what it gives among others."""
    count = len(next(iter(feeds.values())))
    if count == 1:
        return
    for position in range(count):
        part = slice(position, position + 1)
        alone = _alone(session, {name: array[part] for name, array in feeds.items()}, count)
        for name, array in expected.items():
            _check_shape(name, alone[name], array)
        found = _first_difference({name: array[part] for name, array in expected.items()}, alone)
        if found is not None:
            raise ReferenceFault(
                f"sample {position} gives other outputs alone than in a batch of {count}, {found}: statistics over the "
                f"batch, padding to its longest sample that is not masked, or a mixed-up axis. Each sample has to be "
                f"computed on its own."
            )


def _alone(session: Session, feeds: Feeds, count: int) -> dict[str, np.ndarray]:
    try:
        return _run_on_copies(session, feeds)
    except ReferenceFault:
        raise
    except Exception as error:  # the user's code can raise anything
        raise ReferenceFault(
            f"the model takes a batch of {count}, and raises for a batch of one, which is what most devices run: "
            f"{told(error)}. A squeeze() without an axis drops the batch too: name the axis."
        ) from error


def _check_shape(name: str, alone: np.ndarray, together: np.ndarray) -> None:
    if alone.shape == (1, *together.shape[1:]):
        return
    raise ReferenceFault(
        f"output '{name}' is {together.shape} for a batch of {len(together)} and {alone.shape} for a batch of one: an "
        f"axis of size 1 is dropped with squeeze(), or added with the batch. Name the axis, as in squeeze(-1), or use "
        f"flatten(1)."
    )


# --- PyTorch's own two paths ---------------------------------------------------------------------------


def _check_fast_path(
    model: "torch.nn.Module",
    session: Session,
    feeds: Feeds,
    expected: Feeds,
) -> None:
    """Attention by PyTorch's fused inference path gives what the layers give one by one, which is what is exported."""
    import torch

    if not any(isinstance(module, torch.nn.MultiheadAttention) for module in model.modules()):
        return
    with _without_fast_path():
        layers = _run_on_copies(session, feeds)
    found = _first_difference(expected, layers)
    if found is not None:
        raise ReferenceFault(
            f"the fast path of nn.TransformerEncoder gives other outputs than its layers one by one, which every "
            f"exported graph computes, {found}: it drops padded positions. Make it TransformerEncoder(..., "
            f"enable_nested_tensor=False) and give outputs that do not depend on padded positions, or call "
            f"torch.backends.mha.set_fastpath_enabled(False) where the architecture is defined."
        )


@contextmanager
def _without_fast_path() -> Iterator[None]:
    import torch

    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


# --- differences ---------------------------------------------------------------------------------------


def _first_difference(one: Feeds, other: Feeds) -> str | None:
    """The first output that differs, and how, in words; None where all agree."""
    for name, array in one.items():
        found = _difference(array, other[name])
        if found is not None:
            return f"output '{name}' {found}"
    return None


def _difference(one: np.ndarray, other: np.ndarray) -> str | None:
    """How two arrays differ beyond what rounding explains, in words; None where they agree."""
    if one.shape != other.shape:
        return f"in its shape, {one.shape} and {other.shape}"
    unequal = one != other
    if one.dtype.kind == "f":
        unequal &= ~(np.isnan(one) & np.isnan(other))
    if not unequal.any():
        return None
    if one.dtype.kind != "f":
        share = float(unequal.mean())
        return f"in {share:.0%} of its values" if share > MOST_UNEQUAL else None
    found = compare(one, other)
    if found.snr_db is None or found.max_abs is None:
        return "in NaN or infinite values"
    return f"by up to {found.max_abs:.3g}" if found.snr_db < LEAST_SNR_DB else None


def _listed(names: list[str]) -> str:
    first = ", ".join(f"'{name}'" for name in names[:3])
    more = len(names) - 3
    return f"{first} and {more} more" if more > 0 else first
