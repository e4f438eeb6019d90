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
            read = split(_read(steps, vocabulary, blank))
            rows.append((edit_distance(read, wanted), len(wanted)))
        return np.array(rows, np.float64)

    return SumMetric(per_sample, _ratio)


def _ratio(sums: np.ndarray) -> np.ndarray:
    errors = sums[:, 0]
    lengths = sums[:, 1]
    if (lengths == 0).any():
        raise DataError("the labels hold no text to compare with")
    found: np.ndarray = errors / lengths
    return found


def _read(steps: np.ndarray, vocabulary: str, blank: int) -> str:
    """The text of one sample's symbols, as CTC reads them."""
    changes = steps[1:] != steps[:-1]
    is_first = np.append(True, changes)
    is_symbol = steps != blank
    symbols = steps[is_first & is_symbol].tolist()
    if not symbols:
        return ""
    least = min(symbols)
    largest = max(symbols)
    if least < 0 or largest >= len(vocabulary):
        raise DataError(f"outputs have symbols {least} to {largest}, the vocabulary {len(vocabulary)}")
    return "".join(vocabulary[symbol] for symbol in symbols)


def edit_distance(found: Sequence[str], wanted: Sequence[str]) -> int:
    """The fewest entries to change, leave out and put in to make one sequence the other."""
    before = list(range(len(wanted) + 1))
    for row, entry in enumerate(found, 1):
        now = [row]
        for column, other in enumerate(wanted, 1):
            left_out = before[column] + 1
            put_in = now[-1] + 1
            changed = before[column - 1] + (entry != other)
            now.append(min(left_out, put_in, changed))
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
        length, vocabulary = logits.shape[1:]
        logits = logits[:, : length - shift]
        labels = labels[:, shift:]
        counted = labels != ignore
        tokens = np.where(counted, labels, 0)
        if tokens.min(initial=0) < 0 or tokens.max(initial=0) >= vocabulary:
            raise DataError(f"perplexity: labels are outside 0..{vocabulary - 1}, and not {ignore}")
        largest = logits.max(axis=2, keepdims=True)
        sums = np.exp(logits - largest).sum(axis=2)
        normaliser = np.log(sums) + largest[..., 0]
        chosen = np.take_along_axis(logits, tokens[..., None], axis=2)
        losses = np.where(counted, normaliser - chosen[..., 0], 0.0)
        return np.stack([losses.sum(axis=1), counted.sum(axis=1)], axis=1)

    def values(sums: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.exp(_ratio(sums))
        return found

    return SumMetric(per_sample, values)
