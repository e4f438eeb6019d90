"""Calibration: the range of every activation over a set of samples, for the static schemes.

minmax      the smallest and largest value
percentile  where all but 0.001 % of the values lie, by a histogram
entropy     the threshold whose clipped and coarsened histogram loses the least information (Kullback-Leibler; Migacz,
            "8-bit inference with TensorRT", 2017)

ONNX Runtime's calibrators do the arithmetic, but keep what a whole data reader gave until it is exhausted, and grow
their histograms by bins as wide as the first batch suggests. Here samples are streamed: a first pass takes extremes,
a second adds each batch to histograms that already span them. So the result does not depend on the batch size, and
what is held at a time is one batch's activations, which are bounded in bytes.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from edge_assets.core.session import CalibrationData, Feeds, Samples, SavedFeeds
from edge_assets.errors import DataError
from edge_assets.later import np
from edge_assets.spec.model import CalibrationMethod
from edge_assets.toolchains.onnx.graph import initializers, tensor_bytes, with_input_shapes

if TYPE_CHECKING:
    import onnx
    from onnxruntime.quantization.calibrate import CalibraterBase

# smallest and largest value by tensor: scalars of the tensor's own float type
Extremes: TypeAlias = "Mapping[str, tuple[np.ndarray, np.ndarray]]"
BATCH = 32
MEMORY_BYTES = 2**30  # of one batch's activations
BINS = {"percentile": 2048, "entropy": 1024}  # over both signs; entropy's search takes the square of them in time
LEVELS = 128  # that entropy coarsens a histogram to
PERCENTILE = 99.999
# what ONNX Runtime's histogram calibrators raise on graphs that they cannot handle
FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True)
class Ranges:
    """Smallest and largest value that each activation is quantized for, and how they were found."""

    by_tensor: Extremes
    method: CalibrationMethod  # that was used
    samples: int
    batch: int
    fallback: str | None = None  # why the method asked for was not used
    unfit: Mapping[str, str] = field(default_factory=dict)  # tensors without a usable range, and why

    @property
    def facts(self) -> dict[str, Any]:
        """What a recipe's facts say of its calibration."""
        facts: dict[str, Any] = {
            "calibration": self.method,
            "calibration_samples": self.samples,
            "calibration_batch": self.batch,
        }
        if self.fallback:
            facts["calibration_fallback"] = self.fallback
        if self.unfit:
            facts["notes"] = [self.kept]
        return facts

    @property
    def kept(self) -> str:
        """What stays in floating point because of tensors without a usable range, in a sentence."""
        first, reason = next(iter(self.unfit.items()))
        tensors = f"'{first}'"
        if len(self.unfit) > 1:
            tensors += f" and {len(self.unfit) - 1} more"
        return f"operators at tensor {tensors} stay in floating point: it {reason}"


def observe(
    graph: Path,
    data: CalibrationData,
    method: CalibrationMethod,
    operators: Sequence[str] = (),
    batch: int = BATCH,
    memory_bytes: int = MEMORY_BYTES,
) -> Ranges:
    """Ranges of all floating-point tensors beside `operators` (all operators if empty), over the whole of `data`.

    `graph` has shapes inferred (`int8_static.prepare`). The batch is made smaller until its activations fit into
    `memory_bytes`. Where a histogram method fails, the ranges are those of minmax and say why. A tensor that is
    infinite or does not vary is among `unfit`. Raises DataError if one sample alone does not fit or gives NaN.
    """
    samples = sample_count(data)
    batch = fitting_batch(graph, data, batch, memory_bytes)
    extremes = extremes_of(graph, data, operators, batch)
    unfit = _unfit(graph, extremes, samples)
    extremes = {tensor: bounds for tensor, bounds in extremes.items() if tensor not in unfit}
    by_minmax = Ranges(extremes, "minmax", samples, batch, unfit=unfit)
    if method == "minmax" or not extremes:
        return by_minmax
    try:
        clipped = _clipped(graph, data, method, operators, batch, extremes)
    except FAILURES as error:
        reason = f"ONNX Runtime's {method} calibration failed on this graph: {type(error).__name__}: {error}"
        return replace(by_minmax, fallback=reason)
    return replace(by_minmax, by_tensor=clipped, method=method)


def sample_count(data: CalibrationData) -> int:
    """How many samples there are: axis 0 of every input."""
    assert data, "only variants that need calibration get its data"
    if isinstance(data, SavedFeeds):
        return data.kept.samples
    return len(next(iter(data.values())))


def first_samples(data: CalibrationData, count: int) -> Feeds:
    """The first samples, which still know how the model takes them; no others are read."""
    if isinstance(data, Samples | SavedFeeds):
        return data.first(count)
    return {name: array[:count] for name, array in data.items()}


def batches(data: CalibrationData, size: int) -> Iterator[dict[str, np.ndarray]]:
    """`data` cut along axis 0 into batches of at most `size`, as the model takes them."""
    if isinstance(data, SavedFeeds):
        yield from data.in_batches(size)
        return
    for start in range(0, sample_count(data), size):
        if isinstance(data, Samples):
            yield data.part(start, start + size)
            continue
        yield {name: array[start : start + size] for name, array in data.items()}


class BatchReader:
    """ONNX Runtime's CalibrationDataReader over one batch, as the model takes it."""

    def __init__(self, batch: Feeds) -> None:
        self.batches = iter([dict(batch)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The batch, then None."""
        return next(self.batches, None)


# --- memory --------------------------------------------------------------------------------------------


def fitting_batch(graph: Path, data: CalibrationData, batch: int, memory_bytes: int) -> int:
    """The largest batch up to `batch` whose activations take at most `memory_bytes`. Raises DataError if none does."""
    sample = activation_bytes(graph, next(batches(first_samples(data, 1), 1)))
    if sample > memory_bytes:
        raise DataError(
            f"calibration: the activations of a single sample take {sample / 2**20:,.0f} MiB, more than the "
            f"{memory_bytes / 2**20:,.0f} MiB that calibration may hold. Calibrate with smaller samples."
        )
    return min(batch, memory_bytes // max(1, sample))


def activation_bytes(graph: Path, feeds: Feeds) -> int:
    """Bytes of all tensors that the graph computes from inputs of the shapes of `feeds`.

    An upper bound of what is alive at once. A tensor whose shape cannot be inferred counts as the largest that can.
    """
    import onnx

    shapes = {name: array.shape for name, array in feeds.items()}
    model = onnx.load(graph, load_external_data=False)
    inferred = with_input_shapes(model, shapes).graph
    known: dict[str, int] = {}
    for value in (*inferred.value_info, *inferred.output):
        size = tensor_bytes(value)
        if size is not None:
            known[value.name] = size
    total = 0
    unknown = 0
    largest = 0
    for node in inferred.node:
        for name in node.output:
            if name in known:
                total += known[name]
                largest = max(largest, known[name])
            elif name:
                unknown += 1
    return total + unknown * largest


# --- the two passes ------------------------------------------------------------------------------------


def extremes_of(graph: Path, data: CalibrationData, operators: Sequence[str], batch: int) -> Extremes:
    """Smallest and largest value of each tensor. NaN wins, which ONNX Runtime's own merging would hide."""
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    with _calibrator(graph, "minmax", operators) as calibrator:
        session = calibrator.infer_session
        names = [output.name for output in session.get_outputs()]
        for one in batches(data, batch):
            values = dict(zip(names, session.run(None, one), strict=True))
            outputs = {name: values[name] for name in calibrator.model_original_outputs}
            _check_outputs(outputs)
            for name in names[calibrator.num_model_outputs :: 2]:
                tensor = name.removesuffix("_ReduceMin")
                least = values[name].reshape(())
                most = values[f"{tensor}_ReduceMax"].reshape(())
                if tensor in found:
                    least = np.asarray(np.minimum(found[tensor][0], least))
                    most = np.asarray(np.maximum(found[tensor][1], most))
                found[tensor] = (least, most)
    return found


def _clipped(
    graph: Path,
    data: CalibrationData,
    method: CalibrationMethod,
    operators: Sequence[str],
    batch: int,
    extremes: Extremes,
) -> Extremes:
    """Ranges by histograms that span `extremes` from the start, so that adding a batch adds no bins."""
    from onnxruntime.quantization.calibrate import HistogramCollector

    bins = BINS[method]
    with _calibrator(graph, method, operators) as calibrator, contextlib.redirect_stdout(io.StringIO()):
        calibrator.collector = HistogramCollector(
            method,
            symmetric=False,
            num_bins=bins,
            num_quantized_bins=LEVELS,
            percentile=PERCENTILE,
            scenario="same",
        )
        for tensor, (least, most) in extremes.items():
            bound = max(abs(least), abs(most))
            nothing = np.empty(0, bound.dtype)
            span = (float(-bound), float(bound))
            edges = np.histogram_bin_edges(nothing, bins, span)
            calibrator.collector.histogram_dict[tensor] = (
                np.zeros(bins, np.int64),
                edges.astype(bound.dtype),
                least,
                most,
                bound,
            )
        calibrator.tensors_to_calibrate = set(extremes)
        for one in batches(data, batch):
            calibrator.collect_data(BatchReader(one))
        clipped = calibrator.compute_data()
    found = {}
    for tensor in extremes:
        least, most = clipped[tensor].range_value
        found[tensor] = (np.asarray(least), np.asarray(most))
    return found


@contextlib.contextmanager
def _calibrator(
    graph: Path,
    method: CalibrationMethod,
    operators: Sequence[str],
) -> Iterator[CalibraterBase]:
    """ONNX Runtime's calibrator with its session on the augmented graph."""
    from onnxruntime.quantization.calibrate import CalibrationMethod as Method
    from onnxruntime.quantization.calibrate import create_calibrator

    methods = {"minmax": Method.MinMax, "entropy": Method.Entropy, "percentile": Method.Percentile}
    with tempfile.TemporaryDirectory() as scratch:
        yield create_calibrator(
            graph,
            op_types_to_calibrate=list(operators) or None,
            augmented_model_path=str(Path(scratch) / "augmented.onnx"),
            calibrate_method=methods[method],
        )


# --- what cannot be trusted ----------------------------------------------------------------------------


def _check_outputs(outputs: Mapping[str, np.ndarray]) -> None:
    """Raises DataError for NaN."""
    nan = [name for name, values in outputs.items() if np.isnan(values).any()]
    if nan:
        raise DataError(f"calibration: the model gives NaN in {', '.join(nan)} for the calibration data")


def _unfit(graph: Path, extremes: Extremes, samples: int) -> dict[str, str]:
    """Why tensors have no integer range: infinite, or constant though they could vary. Raises DataError for NaN."""
    import onnx

    nan = [tensor for tensor, bounds in extremes.items() if np.isnan(bounds).any()]
    if nan:
        raise DataError(f"calibration: NaN in tensor '{nan[0]}' (of {len(nan)}) for the calibration data")
    varying = depend_on_data(onnx.load(graph, load_external_data=False).graph)
    unfit = {}
    for tensor, (least, most) in extremes.items():
        if not np.isfinite((least, most)).all():
            unfit[tensor] = "is infinite on the calibration data, so it has no integer range"
        elif least == most and tensor in varying:
            unfit[tensor] = (
                f"is {float(least) + 0.0:g} everywhere in all {samples} calibration samples, so any other value would "
                f"be lost. Calibrate with samples that vary it (a mask: of several lengths)"
            )
    return unfit


def depend_on_data(graph: onnx.GraphProto) -> set[str]:
    """Names of the tensors computed from what the inputs hold, not only from their shapes."""
    names = {value.name for value in graph.input} - initializers(graph).keys()
    for node in graph.node:
        if node.op_type not in ("Shape", "Size") and names & set(node.input):
            names |= set(node.output)
    return names
