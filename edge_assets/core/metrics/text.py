"""Metrics of recognised and predicted text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edge_assets.core.metrics.metric import Outputs, SumMetric, demand_shape, output_of
from edge_assets.errors import DataError
from edge_assets.later import np


def wer(vocabulary: str, blank: int, output: str) -> SumMetric:
    """Word error rate: the fewest words to change, leave out and put in, over the words of the labels."""
    return _error_rate(vocabulary, blank, output, str.split)


def cer(vocabulary: str, blank: int, output: str) -> SumMetric:
    """Character error rate, likewise of characters."""
    return _error_rate(vocabulary, blank, output, list)


def _error_rate(
    vocabulary: str,
    blank: int,
    output: str,
    split: Callable[[str], list[str]],
) -> SumMetric:
    """Edit distance over length, both summed over the set (Levenshtein, 1966).

    Outputs are scores of CTC [n, steps, symbols], of which the largest counts at each step, or their numbers
    [n, steps]. Equal neighbours are one symbol and `blank` none (Graves et al., 2006). `vocabulary` holds a character
    per symbol, in their order, the blank's included. Labels are texts [n].
    """

    def per_sample(outputs: Outputs, labels: np.ndarray) -> np.ndarray:
        found = output_of(outputs, output)
        if found.ndim == 3:
            found = found.argmax(axis=2)
        demand_shape(found, 2, "outputs", "[n, steps] or [n, steps, symbols]")
        if labels.dtype.kind != "U":
            raise DataError(f"labels are {labels.dtype}, an error rate takes texts")
        rows = []
        for steps, label in zip(found, labels.tolist(), strict=True):
            wanted = split(label)
            rows.append([edit_distance(split(_read(steps, vocabulary, blank)), wanted), len(wanted)])
        return np.array(rows, np.float64)

    return SumMetric(per_sample, _ratio)


def _ratio(sums: np.ndarray) -> np.ndarray:
    if (sums[:, 1] == 0).any():
        raise DataError("the labels hold no text to compare with")
    found: np.ndarray = sums[:, 0] / sums[:, 1]
    return found


def _read(steps: np.ndarray, vocabulary: str, blank: int) -> str:
    """The text of one sample's symbols, as CTC reads them."""
    starts = np.append(True, steps[1:] != steps[:-1])
    symbols = steps[starts & (steps != blank)].tolist()
    if symbols and not 0 <= min(symbols) <= max(symbols) < len(vocabulary):
        raise DataError(f"outputs have symbols {min(symbols)} to {max(symbols)}, the vocabulary {len(vocabulary)}")
    return "".join(vocabulary[symbol] for symbol in symbols)


def edit_distance(found: Sequence[str], wanted: Sequence[str]) -> int:
    """The fewest entries to change, leave out and put in to make one sequence the other."""
    before = list(range(len(wanted) + 1))
    for row, entry in enumerate(found, 1):
        now = [row]
        for column, other in enumerate(wanted, 1):
            now.append(min(before[column] + 1, now[-1] + 1, before[column - 1] + (entry != other)))
        before = now
    return before[-1]


def perplexity(ignore: int, shift: int, output: str) -> SumMetric:
    """exp of the mean negative log-likelihood of the labels' tokens (Jelinek et al., 1977).

    Outputs are logits [n, tokens, vocabulary], labels int [n, tokens], where `ignore` counts nowhere. With `shift` 1,
    what stands at a token predicts the next one.
    """

    def per_sample(outputs: Outputs, labels: np.ndarray) -> np.ndarray:
        logits = output_of(outputs, output).astype(np.float64)
        demand_shape(logits, 3, "outputs", "[n, tokens, vocabulary]")
        if labels.shape != logits.shape[:2]:
            raise DataError(f"perplexity: labels are {labels.shape}, outputs {logits.shape}")
        logits = logits[:, : logits.shape[1] - shift]
        labels = labels[:, shift:]
        counted = labels != ignore
        tokens = np.where(counted, labels, 0)
        if tokens.min(initial=0) < 0 or tokens.max(initial=0) >= logits.shape[2]:
            raise DataError(f"perplexity: labels are outside 0..{logits.shape[2] - 1}, and not {ignore}")
        largest = logits.max(axis=2, keepdims=True)
        normaliser = np.log(np.exp(logits - largest).sum(axis=2)) + largest[..., 0]
        chosen = np.take_along_axis(logits, tokens[..., None], axis=2)[..., 0]
        losses = np.where(counted, normaliser - chosen, 0.0)
        return np.stack([losses.sum(axis=1), counted.sum(axis=1)], axis=1)

    def values(sums: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.exp(_ratio(sums))
        return found

    return SumMetric(per_sample, values)
