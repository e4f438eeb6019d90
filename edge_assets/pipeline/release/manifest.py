"""The manifest of a released folder: what it holds, what it was made from, and the evidence that it may be used."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from edge_assets.core.evidence import Accuracy, BuiltOn, Gate, Latency, Observation, Parity, Provenance, Row
from edge_assets.core.runtimes import build_session
from edge_assets.core.session import layout_of
from edge_assets.core.shapes import LEFT_OUT
from edge_assets.core.types import Built, File, Recipe
from edge_assets.spec.preprocess import ImagePreprocessing, Preprocessing
from edge_assets.targets.machine import Machine
from edge_assets.toolchains.onnx.releases import least_release

if TYPE_CHECKING:
    from edge_assets.pipeline.judgement import Judgement
    from edge_assets.spec.model import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `manifest.json` has, by its names, and the model card shows."""

    model: str
    description: str
    license: str
    class_names: tuple[str, ...]
    checkpoint: str
    checkpoint_sha256: str
    family: str
    target: str
    artifact: str
    format: str
    precision: str
    file: str  # the artifact in the folder: a file, or a folder of them
    package: Mapping[str, object] | None  # facts of the package that holds the artifact among others
    rebuildable: tuple[str, ...]  # files that another machine may write anew
    sha256: str
    size_bytes: int
    runtime: str
    session: Mapping[str, object]  # options that sessions are opened with
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    preprocessing: Mapping[str, object]
    recipe: Recipe
    metric: str
    accuracy: Accuracy
    parity: Parity
    latency_ms: Latency | None  # at batch 1, on the target's own hardware
    mode: str | None
    threads: int
    machine: Machine  # that measured, as far as it is published
    versions: Mapping[str, str]
    measured_at: str
    evidence: tuple[Gate, ...]
    not_measured: str  # why there is no latency, where there is none
    reason: str
    verdicts: Mapping[str, str]  # of every variant
    layout: Mapping[str, object] | None = field(
        default=None, metadata=LEFT_OUT
    )  # of a model with states, or with its batch elsewhere than first: as layout.py reads it
    files: tuple[File, ...] = field(default=())  # every other file of the folder
    own_unit: str | None = field(default=None, metadata=LEFT_OUT)  # the metric, where its values are no shares
    metrics: Mapping[str, Accuracy] | None = field(default=None, metadata=LEFT_OUT)  # beside the deciding one
    provenance: Mapping[str, Provenance] | None = field(default=None, metadata=LEFT_OUT)  # how each number is known
    observations: tuple[Observation, ...] | None = field(default=None, metadata=LEFT_OUT)  # of every tier
    findings: tuple[str, ...] | None = field(default=None, metadata=LEFT_OUT)  # tiers that contradict each other
    disturbed: str | None = field(default=None, metadata=LEFT_OUT)  # what else happened while it was timed
    least_runtime: str | None = field(default=None, metadata=LEFT_OUT)  # the first release that reads the file
    built_on: BuiltOn | None = field(default=None, metadata=LEFT_OUT)  # the device that built its engine


def manifest_of(judgement: "Judgement", winner: Built, shipped: Built) -> Manifest:
    """The manifest of the winner, in the artifact that is shipped: its own, or a package's."""
    cell, row = judgement.cell, judgement.winning_row()
    spec, conditions = cell.spec, judgement.candidates.conditions
    candidate = judgement.winner().candidate
    assert shipped.artifact is not None and row.sha256 is not None and row.size_bytes is not None
    assert candidate.accuracy is not None and candidate.parity is not None
    file = shipped.variant
    if len(shipped.artifact.files) == 1:
        file = shipped.artifact.files[0].path
    rebuildable = [f"{shipped.variant}/{name}" for name in winner.facts.rebuildable]
    inputs = [tensor.name for tensor in spec.inputs]
    outputs = [tensor.name for tensor in spec.outputs]
    verdicts: dict[str, str] = {entry.candidate.name: entry.verdict for entry in judgement.verdicts}
    session = cell.verification.session(winner.runtime) | build_session(winner.runtime, winner.build)
    manifest = Manifest(
        model=row.model,
        description=spec.description,
        license=spec.license,
        class_names=spec.class_names,
        checkpoint=row.checkpoint,
        checkpoint_sha256=cell.checkpoint.file.sha256,
        family=row.family,
        target=row.target,
        artifact=row.artifact,
        format=row.format,
        precision=row.precision,
        file=file,
        package=None if shipped is winner else shipped.build.facts,
        rebuildable=tuple(rebuildable),
        sha256=row.sha256,
        size_bytes=row.size_bytes,
        runtime=cell.family.variant(row.artifact).runtime,
        session=session,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        preprocessing=preprocessing_of(spec, winner.build.facts).to_dict(),
        recipe=winner.build.recipe,
        metric=spec.evaluation.metric_name,
        own_unit=row.own_unit,
        metrics=row.metrics,
        accuracy=candidate.accuracy,
        parity=candidate.parity,
        latency_ms=candidate.latency,
        mode=row.mode,
        threads=row.threads,
        machine=conditions.machine.published(),
        versions=conditions.versions,
        measured_at=conditions.measured_at,
        evidence=row.evidence,
        not_measured=cell.not_measured,
        reason=row.reason,
        verdicts=verdicts,
        layout=layout_of(spec),
    )
    return _with_evidence(manifest, row, winner)


def preprocessing_of(spec: "ModelSpec", facts: Mapping[str, object]) -> Preprocessing:
    """An artifact's: the model's, but of one size where that is all the artifact takes, as its build's `facts` say."""
    declared = spec.preprocess
    fixed = facts.get("fixed_axes")
    if not isinstance(declared, ImagePreprocessing) or not isinstance(fixed, Mapping):
        return declared
    shape = next(tensor.sample_shape for tensor in spec.inputs if tensor.name == declared.input)
    height, width = (int(fixed.get(axis, axis)) for axis in shape[1:])
    return declared.of_size(height, width)


def _with_evidence(manifest: Manifest, row: Row, winner: Built) -> Manifest:
    """How its numbers are known, what disturbed them, and what it needs to run."""
    latency = manifest.latency_ms
    if latency:
        latency = replace(latency, histogram=None)
    return replace(
        manifest,
        latency_ms=latency,
        provenance=row.provenance,
        observations=row.observations,
        findings=row.findings,
        disturbed=row.disturbed,
        least_runtime=_least_runtime(winner),
        built_on=winner.facts.built_on,
    )


def _least_runtime(winner: Built) -> str | None:
    """The first release of its runtime that reads the artifact, where that is known."""
    opset = winner.build.facts.get("opset")
    if winner.runtime != "onnx" or not isinstance(opset, int):
        return None
    least = least_release(opset)
    return f"ONNX Runtime {least} (opset {opset})" if least else None
