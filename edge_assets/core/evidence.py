"""What is known of an artifact, as data with types: what was computed, what was measured, and what follows from both.

The shapes here are those of the JSON in the store, in a scorecard's rows and in a released folder: a field has one name
everywhere. `read` in `core/shapes` makes them of what was stored, and refuses what has another shape.

From the store:

    Network      what the checkpoint's step says of the model
    Facts        what a variant's build says of its artifact, as far as others than its toolchain read it
    Verified     parity, agreement and accuracy of one artifact against PyTorch eager
    Tried        the same of a search's candidate
    Observed     what Verified says, computed on a device or on an emulated instruction set
    Conditions   how a measurement was taken; Measured: that and its rows

From these follow `Gate`, one gate's outcome, and `Row`, one line of a scorecard: all that tables, pages, MLflow and
Dagster show of a judged variant is in it. Times are in ms, sizes in bytes, drops in points (hundredths of the score).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from edge_assets.core.scheme import Scheme
from edge_assets.core.shapes import LEFT_OUT
from edge_assets.spec.tiers import Tier
from edge_assets.targets.machine import Machine

Verdict = Literal[
    "released",
    "baseline",
    "failed",
    "refused",
    "unavailable",
    "unverified",
    "missing_evidence",
    "failed_parity",
    "failed_accuracy",
    "failed_size",
    "failed_memory",
    "slower_than_baseline",
    "dominated",
    "not_selected",
]
# by the names that MLflow has for them: what is followed over a target's checkpoints
NOT_OF_KEYS = re.compile(r"[^A-Za-z0-9_.-]+")  # what MLflow takes in no metric's name
FOLLOWED = ("accuracy", "accuracy_drop_points", "size_bytes", "latency_p50_ms")
GateName = Literal["parity", "accuracy", "size", "memory"]


# --- computed ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far outputs are from the reference's. The numbers are None where an output is not finite or of another shape.

    `snr_db` is the signal-to-noise ratio, 10 log10(sum(ref^2) / sum((ref - out)^2)).
    """

    max_abs: float | None
    max_rel: float | None
    cosine: float | None
    snr_db: float | None
    nan: int
    inf: int


@dataclass(frozen=True, kw_only=True)
class Parity(Difference):
    """The worst of batches of 1, 2 and 5 and of other sizes, and the difference by output and batch size."""

    by_output: Mapping[str, Mapping[str, Difference]]
    by_size: Mapping[str, Mapping[str, Difference]] | None = field(
        default=None, metadata=LEFT_OUT
    )  # "length=32" -> by output; None: the batch alone is dynamic


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How one output agrees with the reference over the evaluation set: cosines are per sample."""

    cosine_mean: float | None
    cosine_min: float | None
    snr_db: float | None
    samples: int | None = field(default=None, metadata=LEFT_OUT)  # of the first so many alone; None: of all


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """A metric's value on the evaluation set, and its drop against the reference on the same samples.

    A positive drop is worse, whichever way the metric points. `lost` and `gained` count samples whose score got worse
    and better, None for a metric that gives samples no scores of their own.
    """

    value: float
    reference: float
    samples: int
    drop_points: float
    drop_interval_points: tuple[float, float]
    confidence: float
    lost: int | None
    gained: int | None
    resamples: int | None = field(default=None, metadata=LEFT_OUT)  # behind the interval, where these are fewer

    @property
    def drop(self) -> float:
        """In the metric's own unit."""
        return self.drop_points / 100

    @property
    def drop_interval(self) -> tuple[float, float]:
        """In the metric's own unit."""
        low, high = self.drop_interval_points
        return low / 100, high / 100


@dataclass(frozen=True, kw_only=True)
class Verified:
    """One artifact against PyTorch eager in fp32."""

    parity: Parity
    accuracy: Accuracy
    agreement: Mapping[str, Agreement] | None = field(
        default=None, metadata=LEFT_OUT
    )  # by output; the reference has none with itself
    weight_bytes: Mapping[str, int] | None = field(
        default=None, metadata=LEFT_OUT
    )  # of constant tensors of two axes and more, by precision; None where the format does not tell
    metrics: Mapping[str, Accuracy] | None = field(
        default=None, metadata=LEFT_OUT
    )  # those beside the deciding one, by label
    machine: Machine | None = field(default=None, metadata=LEFT_OUT)  # that computed it; None: not known any more

    def cosine_mean(self, output: str) -> float | None:
        """Mean cosine of one output with the reference's, per sample of the evaluation set."""
        if self.agreement is None or output not in self.agreement:
            return None
        return self.agreement[output].cosine_mean

    def weight_share(self, precision: str) -> float | None:
        """The share of the weights' bytes that are in that precision; None where it is not known, or there are none."""
        total = sum((self.weight_bytes or {}).values())
        if self.weight_bytes is None or not total:
            return None
        return self.weight_bytes.get(precision, 0) / total

    def numbers(self) -> dict[str, float]:
        """By the names that MLflow and Dagster have for them, which are a row's where it has them too."""
        parity, accuracy = self.parity, self.accuracy
        low, high = accuracy.drop_interval_points
        found = {
            "parity_max_abs": parity.max_abs,
            "parity_max_rel": parity.max_rel,
            "parity_cosine": parity.cosine,
            "parity_snr_db": parity.snr_db,
            "parity_nan": parity.nan,
            "parity_inf": parity.inf,
            "accuracy": accuracy.value,
            "accuracy_drop_points": accuracy.drop_points,
            "accuracy_drop_low_points": low,
            "accuracy_drop_high_points": high,
            "accuracy_samples": accuracy.samples,
        }
        for name, output in (self.agreement or {}).items():
            found[f"agreement_{name}_cosine_mean"] = output.cosine_mean
            found[f"agreement_{name}_cosine_min"] = output.cosine_min
            found[f"agreement_{name}_snr_db"] = output.snr_db
        for label, other in (self.metrics or {}).items():
            key = f"metric_{NOT_OF_KEYS.sub('_', label).strip('_')}"
            found[key] = other.value
            found[f"{key}_drop"] = other.drop
            found[f"{key}_drop_low"], found[f"{key}_drop_high"] = other.drop_interval
        return known(found)


@dataclass(frozen=True, kw_only=True)
class Tried(Verified):
    """A search's candidate, whose file is not kept."""

    size_bytes: int


# --- said by builds ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """Bytes, and how they are known: "measured on ..." or how they were estimated."""

    bytes: int
    how: str


@dataclass(frozen=True, kw_only=True)
class Graph:
    """How many of the operators that weigh a graph has."""

    convolutions: int
    depthwise: int  # of the convolutions
    matrix_products: int


@dataclass(frozen=True, kw_only=True)
class Delegation:
    """What a delegate takes of a program."""

    delegate: str
    nodes: int
    delegated_nodes: int
    partitions: int | None = field(default=None, metadata=LEFT_OUT)
    by_operator: Mapping[str, str] | None = field(default=None, metadata=LEFT_OUT)  # "3 of 4"


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What a data set's step says of it."""

    samples: int


@dataclass(frozen=True, kw_only=True)
class Network:
    """What the checkpoint's step says of the model in fp32. FLOPs are of one sample, two per multiply-accumulate."""

    parameters: int
    weights_bytes: int  # of parameters and buffers
    flops: int | None = None  # None: they could not be counted


@dataclass(frozen=True, kw_only=True)
class BuiltOn:
    """The device of the project that built an engine, and what the engine therefore needs."""

    device: str  # its name
    gpu: str | None
    driver: str | None
    builder: str
    version: str  # of the builder
    compute_capability: str
    system: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a build says of its artifact, as far as others read it; what else it says stays in the memo, and is shown.

    A result that failed, was refused or is unavailable has facts too.
    """

    recipe: str | None = None  # the name of the scheme
    precision: str | None = None  # of what a search chose
    size_bytes: int | None = None  # what the target holds of the artifact, where that is not all its files
    memory_estimate: Memory | None = None
    graph: Graph | None = None
    delegation: Delegation | None = None
    not_measured: str | None = None  # why there is no latency
    needs_device: str | None = None  # why its own runtime cannot open it here
    stand_in_sha256: str | None = None  # of what a stand-in opens of the artifact: equal ones are verified once
    rebuildable: tuple[str, ...] = ()  # files that another machine may write anew
    built_on: BuiltOn | None = None  # the device that gave it its engine
    unavailable: bool = False  # a toolchain is missing here, which says nothing of the model
    failed: bool = False
    notes: tuple[str, ...] = ()  # what a reader has to know of how it was made, in sentences
    log: str | None = None  # the file in the failures folder that tells the whole story of a failure


# --- measured ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Of latencies in ms. A percentile is None where there were too few queries to claim it."""

    queries: int
    mean: float
    std: float
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None

    @property
    def typical(self) -> float:
        """The median, or the mean where there were too few queries for one."""
        return self.p50 or self.mean


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts of latencies between edges in ms; the last bin takes the tail."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What else happened while a variant was timed, in turns that were interleaved with the other variants'."""

    turns: int
    disturbed: int  # turns that others took part in, though they were repeated
    repeated: int
    waited: float | None = None  # the worst share of a turn that it waited for a core
    stolen: float | None = None  # the same of what a host took from a virtual machine
    throttled: bool | None = None  # in any turn; None: the device does not say
    temperature_c: float | None = None  # the highest
    cooled_s: float = 0.0  # waited for the device to cool

    @property
    def said(self) -> str | None:
        """What a reader has to know, in words; None where nothing disturbed."""
        if not self.disturbed:
            return None
        causes = []
        if self.throttled:
            causes.append("the device held itself back")
        if self.waited is not None:
            causes.append(f"it waited for a core for up to {100 * self.waited:.0f} % of the time")
        if self.stolen:
            causes.append(f"a host took up to {100 * self.stolen:.0f} %")
        return f"{self.disturbed} of {self.turns} turns were disturbed: {', '.join(causes)}"


@dataclass(frozen=True, kw_only=True)
class Latency(Statistics):
    """Latency at one batch size."""

    throughput_per_s: float  # samples
    joules: float | None = field(default=None, metadata=LEFT_OUT)  # of the whole device, a sample
    surroundings: Surroundings | None = field(default=None, metadata=LEFT_OUT)
    histogram: Histogram | None = field(default=None, metadata=LEFT_OUT)  # of the first batch size alone

    @property
    def statistics(self) -> Statistics:
        """The statistics alone."""
        return Statistics(
            queries=self.queries,
            mean=self.mean,
            std=self.std,
            p50=self.p50,
            p90=self.p90,
            p95=self.p95,
            p99=self.p99,
        )


@dataclass(frozen=True, kw_only=True)
class TimedThere:
    """Latency by the clock of who verified an artifact, interleaved with the other variants that it had."""

    mode: str
    threads: int
    measured_at: str  # UTC, ISO 8601
    load_ms: float
    latency_ms: Mapping[str, Latency]  # by batch size


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What a network as C takes of a microcontroller, counted and not timed."""

    flash_bytes: int  # of its code and constants
    arena_bytes: int  # of RAM, for activations
    stack_bytes: int  # the most that one inference took
    instructions: int  # of one inference
    how: str  # who counted what


@dataclass(frozen=True, kw_only=True)
class Observed(Verified):
    """One artifact against PyTorch eager in fp32, computed elsewhere than on this machine's own instruction set."""

    tier: Tier
    device: str  # its name in the project's devices, or the emulated CPU's
    by: str  # in words: what computed it
    versions: Mapping[str, str]  # of Python and the runtimes there
    footprint: Footprint | None = field(default=None, metadata=LEFT_OUT)  # of an emulated microcontroller
    timed: TimedThere | None = field(default=None, metadata=LEFT_OUT)  # of a browser, as it was verified


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """The queries before a measurement, and whether they ended steady."""

    queries: int
    steady: bool


@dataclass(frozen=True, kw_only=True)
class MeasuredVariant:
    """What was measured of one variant in a process of its own. Peaks are of resident memory."""

    sha256: str  # of the artifact that was loaded
    load_ms: float
    baseline_bytes: int  # the peak before the model was loaded
    warm_up: WarmUp
    peak_bytes: int  # at batch 1
    latency_ms: Mapping[str, Latency] | None = field(
        default=None, metadata=LEFT_OUT
    )  # by batch size; None: memory alone was measured


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """How a measurement was taken."""

    mode: str | None  # None: memory alone was measured, on a machine that is not the target
    threads: int
    machine: Machine
    versions: Mapping[str, str]  # of what was measured, by distribution
    measured_at: str  # UTC, ISO 8601
    failed: Mapping[str, str] | None = field(default=None, metadata=LEFT_OUT)  # reasons, by variant
    device: str | None = field(default=None, metadata=LEFT_OUT)  # its name; None: this machine
    no_device: str | None = field(default=None, metadata=LEFT_OUT)  # why a device of the project was not measured


@dataclass(frozen=True, kw_only=True)
class Measured(Conditions):
    """All variants of a cell, measured together."""

    rows: Mapping[str, MeasuredVariant]


# --- judged --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gate:
    """One gate's outcome. `passed` is None where its evidence is missing."""

    name: GateName
    passed: bool | None
    sentence: str
    how: str | None = None
    tier: Tier | None = field(default=None, metadata=LEFT_OUT)  # of its evidence


@dataclass(frozen=True)
class Provenance:
    """How a kind of number is known: its tier, and what computed it, in words."""

    tier: Tier
    by: str


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What one tier says of one artifact."""

    tier: Tier
    by: str
    device: str | None  # None: this machine
    samples: int
    accuracy: float
    accuracy_drop_points: float
    accuracy_drop_interval_points: tuple[float, float]
    parity_snr_db: float | None
    latency_p50_ms: float | None = field(default=None, metadata=LEFT_OUT)  # at batch 1, where that device was timed
    footprint: Footprint | None = field(default=None, metadata=LEFT_OUT)  # of an emulated microcontroller


@dataclass(frozen=True, kw_only=True)
class Row:
    """One judged variant of one cell. What is None was not computed, not measured, or is not known.

    Rows of earlier versions have fewer fields, and verdicts and precisions may be of later ones.
    """

    model: str
    checkpoint: str
    family: str
    target: str
    artifact: str
    format: str
    precision: str
    recipe: str  # the scheme's name
    verdict: str
    reason: str
    sha256: str | None = None
    size_bytes: int | None = None
    size_ratio: float | None = None
    size_base: str  # what the ratio is relative to
    accuracy: float | None = None
    accuracy_drop_points: float | None = None
    accuracy_drop_interval_points: tuple[float, float] | None = None
    parity_max_abs: float | None = None
    parity_max_rel: float | None = None
    parity_cosine: float | None = None
    parity_snr_db: float | None = None
    cosine_mean: float | None = None  # of the first output with fp32's, over the evaluation samples
    agreement: Mapping[str, Agreement] | None = None
    weight_share: float | None = None  # of the weights' bytes, those in `precision`
    build_seconds: float | None = None
    effort_seconds: float | None = None  # with the training, ranking or search that it comes from
    latency_ms: Statistics | None = None  # at batch 1, on the target's own hardware
    latency_ms_by_batch: Mapping[str, Latency] | None = None
    throughput_per_s: float | None = None
    load_ms: float | None = None
    peak_memory_bytes: int | None = None  # on the target's own hardware
    host_peak_memory_bytes: int | None = None  # on the machine that measured
    memory_estimate: Memory | None = None
    graph: Graph | None = None
    delegation: Delegation | None = None
    host_baseline_memory_bytes: int | None = None
    measured_on: str | None = None
    not_measured: str | None = None
    verified_with: str | None = None
    threads: int
    mode: str | None = None
    evidence: tuple[Gate, ...] = ()
    parameters: int
    flops: int | None = None
    reused: bool = False
    notes: tuple[str, ...] = ()  # of the build
    own_unit: str | None = field(default=None, metadata=LEFT_OUT)  # the metric, where its values are no shares
    metric: str | None = field(default=None, metadata=LEFT_OUT)  # the deciding one, where it is not top1_accuracy
    metrics: Mapping[str, Accuracy] | None = field(default=None, metadata=LEFT_OUT)  # beside the deciding one
    parent: str | None = field(default=None, metadata=LEFT_OUT)  # the fp32 variant that it was quantized from
    parent_snr_db: float | None = field(default=None, metadata=LEFT_OUT)  # of its outputs with that one's
    # by kind of number (parity, accuracy, latency, memory, energy): how it is known
    provenance: Mapping[str, Provenance] | None = field(default=None, metadata=LEFT_OUT)
    observations: tuple[Observation, ...] | None = field(default=None, metadata=LEFT_OUT)  # where there are several
    findings: tuple[str, ...] | None = field(default=None, metadata=LEFT_OUT)  # tiers that contradict each other
    disturbed: str | None = field(default=None, metadata=LEFT_OUT)  # what else happened while it was timed
    joules: float | None = field(default=None, metadata=LEFT_OUT)  # of the whole device, a sample at batch 1

    @property
    def p50_ms(self) -> float | None:
        """Median latency at batch 1, where there were queries enough."""
        if self.latency_ms is None:
            return None
        return self.latency_ms.p50

    @property
    def scheme(self) -> Scheme | None:
        """The fields of `recipe`."""
        return Scheme.named(self.recipe)

    def measured_numbers(self) -> dict[str, float]:
        """What a measurement adds, by the names that MLflow has for it."""
        found: dict[str, float | None] = {
            "size_ratio": self.size_ratio,
            "weight_share": self.weight_share,
            "throughput_per_s": self.throughput_per_s,
            "peak_memory_bytes": self.peak_memory_bytes,
            "load_ms": self.load_ms,
            "joules": self.joules,
            "host_peak_memory_bytes": self.host_peak_memory_bytes,
        }
        if self.latency_ms:
            found["latency_mean_ms"] = self.latency_ms.mean
            found["latency_std_ms"] = self.latency_ms.std
            found["latency_p50_ms"] = self.latency_ms.p50
            found["latency_p90_ms"] = self.latency_ms.p90
            found["latency_p95_ms"] = self.latency_ms.p95
            found["latency_p99_ms"] = self.latency_ms.p99
        for batch, latency in (self.latency_ms_by_batch or {}).items():
            found[f"throughput_batch_{batch}_per_s"] = latency.throughput_per_s
        return known(found)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The scorecard of one cell, as it is kept."""

    rows: tuple[Row, ...] = field(default=())


# --- by step -------------------------------------------------------------------------------------------

SHAPES: Mapping[str, type[object]] = {
    "calibration_data": Samples,
    "evaluation_data": Samples,
    "training_data": Samples,
    "checkpoint": Network,
    "reference": Verified,
    "verification": Verified,
    "observation": Observed,
    "trial": Tried,
    "measurement": Conditions,
}


def shape_of(step: str) -> type[object]:
    """What the facts of a step's result are; those of all that are not named are a build's."""
    return SHAPES.get(step, Facts)


def known(numbers: Mapping[str, float | None]) -> dict[str, float]:
    """Those that are numbers."""
    return {name: value for name, value in numbers.items() if value is not None}
