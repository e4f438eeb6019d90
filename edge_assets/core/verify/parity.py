"""Parity: how far a variant's outputs are from PyTorch's on the same preprocessed inputs.

Per output: largest absolute and relative difference, cosine similarity, signal-to-noise ratio in dB, NaN
and Inf counts; in batches of 1, 2 and an odd number, because a graph that baked in its example's batch size
agrees on that batch alone, and in other sizes of every other dynamic axis for the same reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from edge_assets.core.evidence import Difference, Parity
from edge_assets.core.session import Feeds, Session
from edge_assets.core.verify.sizes import Resized
from edge_assets.errors import ExportError, told
from edge_assets.later import np

BATCHES = (1, 2, 5)
SNR_CAP_DB = 200.0  # equal outputs have infinite SNR, which JSON cannot hold
# The least SNR that a precision keeps when nothing is wrong, well below what was measured on healthy models
# (fp32 100 dB and more, fp16 50 to 70, int8 15 to 50, lut6 30 to 35, int4 and lut4 17 to 22) and well above what a
# broken graph gives (below 5).
# between what healthy variants of the examples keep and what broken ones do: docs/measurements.md has both by family
LEAST_SNR_DB = {"fp32": 60.0, "fp16": 35.0, "int8": 10.0, "lut6": 15.0, "int4": 10.0, "lut4": 10.0}


def compare(reference: np.ndarray, output: np.ndarray) -> Difference:
    """Differences of one output of any shape. SNR is capped at 200 dB."""
    ref = reference.astype(np.float64).ravel()
    out = output.astype(np.float64).ravel()
    nan = int(np.isnan(out).sum())
    inf = int(np.isinf(out).sum())
    if reference.shape != output.shape or nan or inf:
        return Difference(
            max_abs=None,
            max_rel=None,
            cosine=None,
            snr_db=None,
            nan=nan,
            inf=inf,
        )
    error = np.abs(ref - out)
    noise = float(np.square(error).sum())
    signal = float(np.square(ref).sum())
    norms = float(np.linalg.norm(ref) * np.linalg.norm(out))
    cosine = float(noise == 0)
    if norms:
        cosine = float(ref @ out) / norms
    relative = error / np.maximum(np.abs(ref), 1e-6)
    return Difference(
        max_abs=float(error.max(initial=0)),
        max_rel=float(relative.max(initial=0)),
        cosine=cosine,
        snr_db=snr_db(signal, noise),
        nan=nan,
        inf=inf,
    )


def snr_db(signal: float, noise: float) -> float:
    """10 log10(signal / noise), within the cap."""
    if noise == 0:
        return SNR_CAP_DB
    if signal == 0:
        return -SNR_CAP_DB
    decibels = 10 * np.log10(signal / noise)
    return float(np.clip(decibels, -SNR_CAP_DB, SNR_CAP_DB))


def measure(
    session: Session,
    feeds: Feeds,
    reference: Feeds,
    resized: Iterable[Resized] = (),
) -> Parity:
    """Parity in batches of 1, 2 and 5 over the first eight samples and in other sizes: the worst, and by output.

    `feeds` and `reference` hold at least eight samples. Raises ExportError for a dynamic axis that takes one size.
    """
    by_output: dict[str, dict[str, Difference]] = {name: {} for name in reference}
    every: list[Difference] = []
    start = 0
    for size in BATCHES:
        part = slice(start, start + size)
        outputs = session.run({name: array[part] for name, array in feeds.items()})
        for name, expected in reference.items():
            found = compare(expected[part], outputs[name])
            by_output[name][str(size)] = found
            every.append(found)
        start += size
    by_size: dict[str, dict[str, Difference]] = {}
    for case in resized:
        by_size[case.title] = _at_size(session, case)
        every += by_size[case.title].values()
    worst = every[0]
    for found in every[1:]:
        worst = _worse(worst, found)
    return Parity(
        by_output=by_output,
        by_size=by_size or None,
        max_abs=worst.max_abs,
        max_rel=worst.max_rel,
        cosine=worst.cosine,
        snr_db=worst.snr_db,
        nan=worst.nan,
        inf=worst.inf,
    )


def _at_size(session: Session, case: Resized) -> dict[str, Difference]:
    """Differences by output where one axis has another size. Raises ExportError for a graph that has one size only."""
    froze = f"the dynamic axis '{case.axis}' froze at {case.was}: with {case.size}"
    try:
        outputs = session.run(case.feeds)
    except Exception as error:  # runtimes raise many types
        raise ExportError(f"{froze} the artifact raises {told(error)}") from error
    found = {}
    for name, expected in case.outputs.items():
        if outputs[name].shape != expected.shape:
            raise ExportError(f"{froze} output '{name}' is {outputs[name].shape}, in PyTorch {expected.shape}")
        found[name] = compare(expected, outputs[name])
    return found


def _worse(one: Difference, other: Difference) -> Difference:
    """Each number of the worse of two, and the counts of both."""
    return Difference(
        max_abs=_pick(max, one.max_abs, other.max_abs),
        max_rel=_pick(max, one.max_rel, other.max_rel),
        cosine=_pick(min, one.cosine, other.cosine),
        snr_db=_pick(min, one.snr_db, other.snr_db),
        nan=one.nan + other.nan,
        inf=one.inf + other.inf,
    )


def _pick(
    worse: Callable[[float, float], float],
    one: float | None,
    other: float | None,
) -> float | None:
    """The worse of two numbers; None, of what has none, is the worst."""
    if one is None or other is None:
        return None
    return worse(one, other)


def verdict(parity: Difference, precision: str) -> tuple[bool, str]:
    """Whether parity is what this precision should keep, and the sentence that says so."""
    at = _worst_size(parity)
    if parity.snr_db is None:
        return False, f"{parity.nan} NaN and {parity.inf} infinite outputs{at}, or outputs of another shape"
    least = LEAST_SNR_DB[precision]
    is_kept = parity.snr_db >= least
    comparison = "at least" if is_kept else "below"
    return is_kept, f"SNR {parity.snr_db:.1f} dB{at}, {comparison} {least:.0f} dB for {precision}"


def _worst_size(parity: Difference) -> str:
    """Which other size of a dynamic axis the parity is of, in words; empty where a batch is as bad."""
    if not isinstance(parity, Parity) or parity.by_size is None:
        return ""
    for batches in parity.by_output.values():
        if any(found.snr_db == parity.snr_db for found in batches.values()):
            return ""
    for title, outputs in parity.by_size.items():
        if any(found.snr_db == parity.snr_db for found in outputs.values()):
            return f" with {title}"
    return ""
