"""What a search works with: candidate graphs, each judged once and kept by the store.

Candidates are judged on the first half of the evaluation set. What a search chooses is verified like every variant on
the whole set, half of which the search has not seen.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edge_assets.core.evidence import Tried
from edge_assets.core.select import Limits
from edge_assets.core.shapes import record
from edge_assets.core.types import Result
from edge_assets.core.verify.evaluate import VerificationRequest, evaluate
from edge_assets.errors import EdgeAssetsError, ExportError, Refused, told
from edge_assets.spec.model import PARITY_SAMPLES

Write = Callable[[Path], None]


@dataclass(frozen=True)
class Trial:
    """What is known of one candidate. `parameters` name it."""

    parameters: Mapping[str, object]
    size_bytes: int
    drop_points: float
    drop_interval_points: tuple[float, float]
    cosine_mean: float | None  # of the first output with fp32's, per sample
    snr_db: float | None
    seconds: float
    reused: bool

    def meets(self, limits: Limits) -> bool:
        """Whether the accuracy gate, the only one that a search can know, would let it pass."""
        if self.drop_points > limits.accuracy_drop_points:
            return False
        if limits.cosine is None:
            return True
        return self.cosine_mean is not None and self.cosine_mean >= limits.cosine

    def missed_by(self, limits: Limits) -> float:
        """How far it is from the gate: points of accuracy over it, plus hundredths of cosine below it."""
        missing = max(0.0, self.drop_points - limits.accuracy_drop_points)
        if limits.cosine is not None:
            cosine = self.cosine_mean or 0.0
            missing += 100 * max(0.0, limits.cosine - cosine)
        return missing


@dataclass(frozen=True)
class Trials:
    """Judges candidates of one variant's search."""

    remember: Callable[[Mapping[str, object], Callable[[Path], Mapping[str, object]]], Result]  # kept by its parameters
    request: Callable[[Path], VerificationRequest]  # about a candidate's file, on the whole evaluation set
    limits: Limits
    samples: int  # of the evaluation set
    output: str  # the model's first, whose agreement with fp32's counts
    # P50 in ms at batch 1 of files by name, interleaved in child processes; None: the target is not at hand
    time: Callable[[Mapping[str, Path]], dict[str, float]] | None = None

    @property
    def half(self) -> int:
        """Samples that candidates are judged on: even, since a metric may work on pairs."""
        return max(PARITY_SAMPLES, self.samples // 2 // 2 * 2)

    def run(
        self,
        parameters: Mapping[str, object],
        write: Write,
        samples: int | None = None,
    ) -> Trial:
        """Write a candidate and verify it on the first `samples` samples, half of the set by default.

        Raises Refused if the candidate's file cannot be made or run.
        """
        count = min(samples or self.half, self.half)

        def build(folder: Path) -> Mapping[str, object]:
            path = folder / "candidate.onnx"
            try:
                write(path)
                verified = evaluate(replace(self.request(path), samples=count))
                size = path.stat().st_size
            except ExportError as error:
                raise Refused(str(error)) from error
            except (EdgeAssetsError, MemoryError, OSError):  # these say nothing of the candidate
                raise
            except Exception as error:  # a quantizer or a runtime can raise anything, and the next candidate may work
                raise Refused(told(error)) from error
            path.unlink()  # the facts are kept; what is chosen is written again
            return {**record(verified), "size_bytes": size}

        result = self.remember({**parameters, "samples": count}, build)
        if result.refused:
            raise Refused(result.refused)
        tried = result.said(Tried)
        assert tried.agreement is not None
        return Trial(
            parameters=parameters,
            size_bytes=tried.size_bytes,
            drop_points=tried.accuracy.drop_points,
            drop_interval_points=tried.accuracy.drop_interval_points,
            cosine_mean=tried.cosine_mean(self.output),
            snr_db=tried.agreement[self.output].snr_db,
            seconds=result.seconds,
            reused=result.reused,
        )
