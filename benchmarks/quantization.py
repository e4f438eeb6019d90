"""Every quantization scheme on several architectures, measured on this machine, beside what is usually promised.

    python -m benchmarks.quantization [--models digits minilm ...] [--mode rapid] [--home FOLDER] [--json FILE]
                                      [--olive PYTHON]

Each model is built for the CPU target that this machine is, with every scheme, fine-tuning and search that its spec
allows; all variants of a model are timed interleaved, in child processes. Drops are in points on the whole evaluation
set with their 95 % interval; sizes compare with the ONNX fp32 file, latency (P50 at batch 1) with its time in the same
measurement. Results are kept in `--home`, so that a second run measures nothing again. `--olive` names the Python of an
environment that has olive-ai: its quantizations of the same ONNX file with the same calibration data stand beside ours.
"""

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.architectures.specs import SPECS
from edge_assets.core.benchmark.harness import Contestant
from edge_assets.core.benchmark.statistics import MODES
from edge_assets.core.datasets.npz import save_arrays
from edge_assets.core.evidence import MeasuredVariant, Row
from edge_assets.core.shapes import written
from edge_assets.core.types import Built
from edge_assets.core.verify.evaluate import evaluate
from edge_assets.errors import EdgeAssetsError
from edge_assets.families.cpu import CPU
from edge_assets.hashing import sha256_of
from edge_assets.pipeline.cell import Cell
from edge_assets.pipeline.judgement import Judgement
from edge_assets.registry import registry
from edge_assets.report.tradeoff import Tradeoff, refusals, tradeoffs
from edge_assets.spec.model import ModelSpec, Search
from edge_assets.spec.project import checkpoint_folder
from edge_assets.targets import local_target
from edge_assets.targets.project import catalog
from examples.digits.spec import DIGITS_IN_DEPTH
from resources import checkpoints
from resources.store import ArtifactStore, open_store

FP32 = "onnx_model"
EXAMPLES = (DIGITS_IN_DEPTH.name, "minilm")
SECONDS = 300  # of a search
COSINES = {"minilm": 0.995}  # what mixed precision and the search of an example aim at besides its own gates


@dataclass(frozen=True)
class Numbers:
    """What goals ask of a variant that was verified and timed."""

    drop_points: float
    cosine: float  # mean over the evaluation samples
    of_weights: float  # its size relative to the fp32 weights'
    of_file: float  # relative to the ONNX fp32 file's
    of_latency: float  # its P50 relative to the ONNX fp32 file's


@dataclass(frozen=True)
class Goal:
    """What the variants of a model to which it applies should reach."""

    model: str
    sentence: str
    reached: Callable[[Numbers], bool]
    applies: Callable[[Row], bool]


GOALS = (
    Goal(
        "digits_in_depth",
        "static int8: drop of at most 0.5 points at 3.5 times smaller than fp32 weights",
        lambda found: found.drop_points <= 0.5 and found.of_weights <= 1 / 3.5,
        lambda row: "int8_static" in row.recipe,
    ),
    Goal(
        "digits_in_depth",
        "QAT: drop of at most 0.3 points at 3.5 times smaller than fp32 weights",
        lambda found: found.drop_points <= 0.3 and found.of_weights <= 1 / 3.5,
        lambda row: "_qat" in row.recipe,
    ),
    Goal(
        "minilm",
        "int8: mean cosine of at least 0.995 at no more than 0.5 of fp32's latency",
        lambda found: found.cosine >= 0.995 and found.of_latency <= 0.5,
        lambda row: row.precision == "int8",
    ),
    Goal(
        "minilm",
        "int4: mean cosine of at least 0.975 at no more than 0.17 of fp32's size",
        lambda found: found.cosine >= 0.975 and found.of_file <= 0.17,
        lambda row: row.precision == "int4",
    ),
)


def spec_of(name: str) -> ModelSpec:
    """The model with every scheme and a search. Raises EdgeAssetsError for an unknown one."""
    if name in SPECS:
        return SPECS[name]
    if name == DIGITS_IN_DEPTH.name:
        return DIGITS_IN_DEPTH
    spec = registry().model(name)
    gates = replace(spec.gates, min_cosine=COSINES.get(name, spec.gates.min_cosine))
    return replace(spec, schemes="all", search=spec.search or Search(max_seconds=SECONDS), gates=gates)


def checkpoint_of(spec: ModelSpec, home: Path) -> Path | str:
    """The newest checkpoint of an example, or the one that the benchmark trains."""
    if spec.name not in SPECS:
        return max(file.url for file in checkpoints.list_files(checkpoint_folder(spec)))
    path = home / "trained" / f"{spec.name}.safetensors"
    if not path.exists():
        from benchmarks.architectures.train import train

        train(spec.architecture, path)
    return path


def open_cell(name: str, home: Path, store: ArtifactStore, say: Callable[[str], None]) -> Cell:
    """The model on the CPU target that this machine is. Raises EdgeAssetsError if it is none of the catalog's."""
    target = local_target(catalog().values(), CPU.name)
    if target is None:
        raise EdgeAssetsError("this machine is no CPU target of the catalog: add it before measuring on it")
    spec = spec_of(name)
    checkpoint = checkpoints.register(store, spec.name, str(checkpoint_of(spec, home)))
    at_batch_1 = replace(target, batch_sizes=(1,))  # nothing here shows the time of a larger one
    return Cell(spec, CPU.of(spec), at_batch_1, checkpoint, store, say)


def measured(cell: Cell, builts: Mapping[str, Built], mode: str) -> list[Row]:
    """Measure everything that was built; the cell's scorecard rows."""
    return Judgement(cell, builts, cell.measure(builts, mode)).rows


def beside_olive(cell: Cell, builts: Mapping[str, Built], rows: Sequence[Row], python: str, mode: str) -> Table:
    """Olive's quantizations of our ONNX file and our variants: same data, timed in one interleaved measurement."""
    fp32 = builts[FP32].build.artifact
    assert fp32 is not None, "it was measured above"
    source = cell.store.checkout(fp32)
    ours = {name: b for name, b in builts.items() if b.runtime == "onnx" and b.accuracy}
    with tempfile.TemporaryDirectory() as scratch:
        calibration = Path(scratch) / "calibration.npz"
        save_arrays(cell.data.feeds(cell.data.calibration), calibration)
        script = Path(__file__).with_name("olive_quantize.py")
        subprocess.run([python, script, source, calibration, scratch], check=True, cwd=scratch)
        seconds = json.loads((Path(scratch) / "seconds.json").read_text())
        theirs = {f"olive {scheme}": Path(scratch) / scheme / "model.onnx" for scheme in seconds}
        files = {name: cell.verification.loadable("onnx", b.build) for name, b in ours.items()}
        files |= {name: replace(files[FP32], path=str(path)) for name, path in theirs.items()}
        evidence = {name: evaluate(cell.verification.request(files[name])) for name in theirs}
        contestants = [Contestant(name, sha256_of(Path(entry.path)), entry) for name, entry in files.items()]
        times = cell.measurement.interleaved(contestants, MODES[mode], (1,))
        sizes = {name: Path(entry.path).stat().st_size for name, entry in files.items()}
    shown = Table(title=f"{cell.spec.name}: beside Olive", title_justify="left")
    for heading in ("variant", "drop, points (95 %)", "cosine", "size", "latency", "effort s", "remark"):
        shown.add_column(heading)
    output = cell.spec.outputs[0].name
    p50 = {name: _p50_at_batch_1(row) for name, row in times.items()}
    by_artifact = {row.artifact: row for row in rows}
    for name in sorted(files, key=lambda n: sizes[n]):
        if name in ours:
            verified = ours[name].verified
            effort, remark = by_artifact[name].effort_seconds, ""
        else:
            verified = evidence[name]
            cosine = verified.cosine_mean(output)
            same = cosine is not None and cosine > 1 - 1e-6 and sizes[name] > 0.99 * sizes[FP32]
            effort, remark = seconds[name.removeprefix("olive ")], "changed nothing" if same else ""
        assert verified is not None
        accuracy, cosine = verified.accuracy, verified.cosine_mean(output)
        low, high = accuracy.drop_interval_points
        shown.add_row(
            name,
            f"{accuracy.drop_points:.2f} ({low:.2f} to {high:.2f})",
            "-" if cosine is None else f"{cosine:.4f}",
            f"{sizes[name] / sizes[FP32]:.3f}x",
            f"{p50[name] / p50[FP32]:.2f}x",
            "-" if effort is None else f"{effort:.1f}",
            remark,
        )
    return shown


def _p50_at_batch_1(row: MeasuredVariant) -> float:
    """In ms. Every mode has queries enough for a median."""
    assert row.latency_ms is not None
    p50 = row.latency_ms["1"].p50
    assert p50 is not None
    return p50


def table(name: str, rows: Sequence[Row]) -> Table:
    """The tradeoffs of one model, measured and promised."""
    base = _row(rows, FP32)
    assert base.accuracy is not None
    assert base.size_bytes is not None
    assert base.p50_ms is not None
    title = (
        f"{name}: {base.parameters / 1e6:.2f} M parameters, fp32 score {100 * base.accuracy:.2f} %, "
        f"{base.size_bytes / 1024:,.0f} KiB, P50 {base.p50_ms:.3f} ms"
    )
    shown = Table(title=title, title_justify="left", show_lines=False)
    for heading in ("artifact", "recipe", "drop, points (95 %)", "cosine", "size", "latency", "effort s", "promised"):
        shown.add_column(heading, overflow="fold")
    shown.add_column("remark", overflow="fold", max_width=48)
    by_artifact = {row.artifact: row for row in rows}
    for entry in tradeoffs(rows):
        shown.add_row(*_cells(entry, by_artifact[entry.artifact]))
    for artifact, reason in refusals(rows):
        shown.add_row(artifact, "refused", *["-"] * 6, reason)
    return shown


def _cells(entry: Tradeoff, row: Row) -> Iterator[str]:
    low, high = entry.drop_interval
    yield entry.artifact
    yield entry.recipe
    yield f"{entry.drop:.2f} ({low:.2f} to {high:.2f})"
    yield "-" if row.cosine_mean is None else f"{row.cosine_mean:.4f}"
    yield f"{1 / entry.smaller:.3f}x"
    yield "-" if entry.faster is None else f"{1 / entry.faster:.2f}x"
    yield "-" if entry.effort_seconds is None else f"{entry.effort_seconds:.1f}"
    yield _promised(entry)
    yield entry.remark


def _promised(entry: Tradeoff) -> str:
    if entry.promise is None:
        return "-"
    ranges = (entry.promise.drop_points, entry.promise.smaller, entry.promise.faster)
    drop, smaller, faster = (f"{low:g}-{high:g}" for low, high in ranges)
    return f"{drop} points, {smaller}x smaller, {faster}x faster ({entry.promise.where})"


def goals(name: str, rows: Sequence[Row]) -> Iterator[str]:
    """What of the goals the model reaches, with the variants that reach it, or else all to which it applies."""
    base = _row(rows, FP32)
    for goal in GOALS:
        if goal.model != name:
            continue
        mine: dict[str, Numbers] = {}
        for row in rows:
            found = _numbers(row, base)
            if found and goal.applies(row):
                mine[row.artifact] = found
        reaching = {artifact: found for artifact, found in mine.items() if goal.reached(found)}
        outcome = "reached" if reaching else "NOT REACHED"
        for artifact, found in (reaching or mine).items():
            yield (
                f"{outcome}  {goal.sentence}: {artifact} has drop {found.drop_points:.2f} points, "
                f"mean cosine {found.cosine:.4f}, {found.of_weights:.3f} of fp32 weights, "
                f"{found.of_file:.3f} of the fp32 file, {found.of_latency:.2f} of its latency"
            )
        if not mine:
            yield f"NOT REACHED  {goal.sentence}: no variant was built"


def _numbers(row: Row, base: Row) -> Numbers | None:
    """None for a variant that was not built, or not timed."""
    if row.accuracy_drop_points is None or row.cosine_mean is None or row.size_ratio is None:
        return None
    if row.size_bytes is None or row.p50_ms is None:
        return None
    assert base.size_bytes is not None
    assert base.p50_ms is not None
    return Numbers(
        drop_points=row.accuracy_drop_points,
        cosine=row.cosine_mean,
        of_weights=row.size_ratio,
        of_file=row.size_bytes / base.size_bytes,
        of_latency=row.p50_ms / base.p50_ms,
    )


def _row(rows: Sequence[Row], artifact: str) -> Row:
    return next(row for row in rows if row.artifact == artifact)


def main() -> None:
    """Measure and print."""
    names = (*EXAMPLES, *SPECS)
    parser = argparse.ArgumentParser(prog="benchmarks.quantization", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=names, default=names, metavar="MODEL", help=", ".join(names))
    parser.add_argument("--mode", choices=("rapid", "quick", "release"), default="rapid", help="how long to measure")
    parser.add_argument("--home", type=Path, default=Path(".edge-assets/benchmarks"), help="where results are kept")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows")
    parser.add_argument("--olive", metavar="PYTHON", help="the Python of an environment with olive-ai and requests")
    arguments = parser.parse_args()
    home = arguments.home.resolve()
    console = Console(width=int(os.environ.get("COLUMNS", "200")))
    store = open_store(str(home / "store"), home / "cache")
    every: dict[str, list[Row]] = {}
    compared: dict[str, Table] = {}
    for name in arguments.models:
        cell = open_cell(name, home, store, lambda line: console.print(f"  [dim]{line}[/]", highlight=False))
        builts = cell.build_all()
        every[name] = measured(cell, builts, arguments.mode)
        if arguments.olive:
            python = str(Path(arguments.olive).absolute())
            compared[name] = beside_olive(cell, builts, every[name], python, arguments.mode)
    for name, rows in every.items():
        console.print(table(name, rows))
        if name in compared:
            console.print(compared[name])
        for sentence in goals(name, rows):
            console.print(sentence, highlight=False)
        console.print(f"measured on {_row(rows, FP32).measured_on}, mode {arguments.mode}\n", highlight=False)
    if arguments.json:
        arguments.json.write_text(json.dumps(written(every), indent=1))


if __name__ == "__main__":
    main()
