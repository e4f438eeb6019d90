"""One fault stays one fault: a variant that fails is one row, also while measured, and an error is one message."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from edge_assets.core.benchmark import harness
from edge_assets.core.benchmark.harness import Contestant
from edge_assets.core.benchmark.turns import turn
from edge_assets.core.evidence import Conditions
from edge_assets.core.types import Built
from edge_assets.core.variant import CHECKPOINT
from edge_assets.core.verify import parity
from edge_assets.errors import EdgeAssetsError, MeasurementError, told
from edge_assets.families.cpu import CPU
from edge_assets.hashing import Json
from edge_assets.pipeline.cell import Cell
from edge_assets.pipeline.judgement import Judgement
from edge_assets.targets.project import target
from edge_assets.toolchains.onnx import export as onnx
from edge_assets.toolchains.onnx import int8_static
from resources import checkpoints
from resources.store import ArtifactStore, open_store
from tests.cli.test_build import rows
from tests.conftest import Project
from tests.tiny.spec import TINY

WORKER = "edge_assets.core.benchmark.worker"
SPECS = ",".join(f"tests.tiny.spec:{name}" for name in ("CONSTANT", "RAISING", "BAD_LOADER", "BAD_METRIC"))


# --- variants ------------------------------------------------------------------------------------------


def test_variants_that_fail_are_rows_and_another_is_released(project: Project) -> None:
    result = project.run("build", "--model", "constant", "--target", "graviton3", EDGE_ASSETS_MODELS=SPECS)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "failed variant: graviton3: onnx_model: operator aten.special_bessel_j0.default" in result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    judged = rows(project, "constant", EDGE_ASSETS_MODELS=SPECS)
    verdicts = {name: row["verdict"] for name, row in judged.items()}
    assert verdicts.pop("checkpoint") == "baseline"
    assert verdicts.pop("torch_int8") == "released"
    assert set(verdicts.values()) == {"failed"}, verdicts
    assert {status for name, status in checks(project, "constant").items() if name[0] == "onnx_model"} == {False}
    assert {status for name, status in checks(project, "constant").items() if name[0] == "torch_int8"} == {True}

    again = project.run("build", "--model", "constant", "--target", "graviton3", "--strict", EDGE_ASSETS_MODELS=SPECS)
    assert again.returncode == 1, "strict: a failed variant is an error"
    assert "onnx_model: failed before, tried again" in again.stdout
    assert "verifying" not in again.stdout, "what did not fail is reused"


def checks(project: Project, model: str) -> dict[tuple[str, str], bool]:
    """Whether each evaluated check of the model's cpu family passed, by asset and name."""
    import dagster as dg

    with dg.DagsterInstance.from_config(str(project.home / "dagster")) as instance:
        (run,) = instance.get_runs(dg.RunsFilter(job_name=f"{model}_cpu"))
        records = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    found = {}
    for record in records:
        assert record.dagster_event is not None
        evaluation = record.dagster_event.asset_check_evaluation_data
        found[evaluation.asset_key.path[-1], evaluation.check_name] = evaluation.passed
    return found


def test_what_is_made_from_a_graph_that_failed_parity_is_not_releasable(
    cell: Cell, builts: dict[str, Built], monkeypatch: pytest.MonkeyPatch
) -> None:
    builts["onnx_int8_static"] = cell.variants.build(int8_static.VARIANT, builts["onnx_model"])
    judgement = Judgement(cell, builts, cell.measure(builts, "rapid"))
    before = {entry.candidate.name: entry.verdict for entry in judgement.verdicts}
    assert not {"failed", "failed_parity", "refused"} & set(before.values()), before

    monkeypatch.setitem(parity.LEAST_SNR_DB, "fp32", 190.0)  # which only PyTorch itself has
    judged = {entry.candidate.name: entry for entry in replace(judgement).verdicts}
    assert judged["onnx_int8_static"].verdict == "failed_parity"
    assert judged["onnx_int8_static"].reason.startswith("made from onnx_model, which failed parity: SNR 1")
    assert judged["onnx_optimized"].verdict == "failed_parity"
    assert judged[CHECKPOINT].verdict == "baseline"


# --- measurement ---------------------------------------------------------------------------------------


@pytest.fixture
def cell(store: ArtifactStore, checkpoint_file: Path) -> Cell:
    checkpoint = checkpoints.register(store, "tiny", str(checkpoint_file))
    return Cell(TINY, CPU, target("graviton3"), checkpoint, store, lambda _line: None)


@pytest.fixture
def builts(cell: Cell) -> dict[str, Built]:
    """The baseline and two variants."""
    built = {CHECKPOINT: cell.reference.build()}
    built["onnx_model"] = cell.variants.build(onnx.MODEL, built[CHECKPOINT])
    built["onnx_optimized"] = cell.variants.build(onnx.OPTIMIZED, built["onnx_model"])
    return built


def stopping_a_worker(number: int, sent: signal.Signals) -> threading.Thread:
    """Sends a signal to this process's measuring child of that number as soon as there are as many."""

    def watch() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            workers = [child for child in psutil.Process().children() if is_worker(child)]
            workers.sort(key=lambda child: child.pid)
            if len(workers) > number:
                workers[number].send_signal(sent)
                return
            time.sleep(0.005)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def is_worker(process: psutil.Process) -> bool:
    try:
        return WORKER in process.cmdline()
    except psutil.Error:
        return False


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        pytest.param(
            signal.SIGSTOP, "its process did not answer 'load' within 8 s and was ended", marks=pytest.mark.slow
        ),
        (signal.SIGKILL, "its process ended (exit -9) during"),
    ],
)
def test_a_variant_whose_measuring_process_hangs_or_dies_fails_alone(
    cell: Cell, builts: dict[str, Built], monkeypatch: pytest.MonkeyPatch, sent: signal.Signals, words: str
) -> None:
    monkeypatch.setattr(harness, "TIMEOUT", 8)
    thread = stopping_a_worker(1, sent)
    measured = cell.measure(builts, "rapid")
    thread.join()
    failed = measured.said(Conditions).failed
    assert failed is not None
    assert list(failed) == ["onnx_model"]
    assert words in failed["onnx_model"]
    judged = {entry.candidate.name: entry for entry in Judgement(cell, builts, measured).verdicts}
    assert judged["onnx_model"].verdict == "failed"
    assert words in judged["onnx_model"].reason
    assert judged["onnx_optimized"].verdict == "released"
    assert not [child for child in psutil.Process().children() if is_worker(child)]


def test_a_failed_measurement_does_not_keep_the_next_one_waiting(cell: Cell, builts: dict[str, Built]) -> None:
    right = cell.verification.loadable("onnx", builts["onnx_model"].build)
    missing = Contestant("missing", "0" * 64, replace(right, path="/nowhere/model.onnx"))
    with pytest.raises(MeasurementError, match="missing: measuring failed: 'load' failed") as kept:
        cell.measurement.interleaved([missing], None, (1,))
    contestant = Contestant("onnx_model", builts["onnx_model"].build.sha256, right)
    assert cell.measurement.interleaved([contestant], None, (1,))["onnx_model"].peak_bytes > 0
    assert kept.value.__traceback__ is not None, "the error was alive all the while"


def test_what_goes_wrong_before_a_recipe_is_known_is_raised_as_it_is(cell: Cell) -> None:
    def parameters(_spec: object, _target: object) -> dict[str, Json]:
        raise KeyError("width")

    variant = replace(CPU.variant("onnx_model"), parameters=parameters)
    with pytest.raises(KeyError, match="width"):
        cell.variants.build(variant, cell.build("checkpoint"))


def another_cache(store: ArtifactStore, cache: Path) -> ArtifactStore:
    """The same store, used from another state folder."""
    return open_store(store.root.path, cache)


def test_measurements_of_two_state_folders_wait_for_each_other(
    cell: Cell, builts: dict[str, Built], tmp_path: Path
) -> None:
    lines: list[str] = []
    other = replace(cell, store=another_cache(cell.store, tmp_path), log=lines.append)
    right = other.verification.loadable("onnx", builts["onnx_model"].build)
    contestant = Contestant("onnx_model", builts["onnx_model"].build.sha256, right)
    with ThreadPoolExecutor(1) as pool:
        with turn(waiting=lambda: None):
            measured = pool.submit(other.measurement.interleaved, [contestant], None, (1,))
            deadline = time.monotonic() + 30
            while not lines and time.monotonic() < deadline:
                time.sleep(0.02)
            assert lines == ["waiting for another measurement on this machine"]
            assert not measured.done()
        assert measured.result(timeout=60)["onnx_model"].peak_bytes > 0


def test_a_lock_for_measuring_that_cannot_be_made_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGE_ASSETS_MEASURING_LOCK", str(tmp_path / "lock"))
    with turn(waiting=lambda: None):
        assert (tmp_path / "lock").exists()
    monkeypatch.setenv("EDGE_ASSETS_MEASURING_LOCK", str(tmp_path / "nowhere" / "lock"))
    message = r"nowhere/lock, cannot be made: .*EDGE_ASSETS_MEASURING_LOCK names"
    with pytest.raises(EdgeAssetsError, match=message), turn(waiting=lambda: None):
        pass


# --- errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("raising", "raising/cpu/checkpoint: AttributeError: 'Raising' object has no attribute 'bias_of_nothing' ("),
        ("bad_loader", "evaluation data tests.tiny.data:raising raised KeyError: 'pictures' ("),
        ("bad_metric", "metric tests.tiny.data:raising_metric raised KeyError: 'scores' ("),
    ],
)
def test_an_error_in_a_users_code_is_one_message_with_its_line_and_a_log(
    project: Project, model: str, message: str
) -> None:
    result = project.run("build", "--model", model, "--target", "graviton3", EDGE_ASSETS_MODELS=SPECS)
    assert result.returncode == 1
    assert message in result.stderr
    assert f"{os.sep}tiny{os.sep}" in result.stderr
    assert ", line " in result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    log = Path(result.stderr.partition("The whole story is in ")[2].strip())
    assert "Traceback (most recent call last)" in log.read_text()


def test_what_torch_export_suggests_survives() -> None:
    import torch

    class Fixed(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image + torch.ones(image.shape[0], 16)

    batch, tokens = torch.export.Dim("batch"), torch.export.Dim("tokens")
    with pytest.raises(Exception, match="16") as error:  # torch's own type is private
        torch.export.export(Fixed(), (torch.rand(2, 16),), dynamic_shapes=({0: batch, 1: tokens},), strict=False)
    text = told(error.value)
    assert "tokens = 16" in text, text
    assert "Suggested fixes" in text
    assert "http" not in text
    assert "TORCH_LOGS" not in text


def test_a_message_that_holds_a_traceback_keeps_its_first_line_and_the_error_at_its_end() -> None:
    text = "it failed\nTraceback of X (most recent call last):\n  File 'a'\n    b()\nRuntimeError: rank 4 is required\n"
    assert told(ValueError(text)) == "ValueError: it failed\nRuntimeError: rank 4 is required"


def test_control_characters_of_a_foreign_message_never_reach_the_terminal() -> None:
    assert told(ValueError("\x1b[31mred\x1b[0m\rover\x07")) == "ValueError: redover"
    assert told(ValueError("\x9b31mred \udcff.txt")) == "ValueError: 31mred .txt"


def test_an_error_that_was_raised_from_itself_is_told() -> None:
    first, second = ValueError("first"), KeyError("second")
    first.__cause__ = first
    assert told(first) == "ValueError: first"
    first.__cause__, second.__cause__ = second, first
    assert told(first) == "KeyError: 'second'"


def test_a_build_that_keeps_to_some_cores_verifies_with_as_many_threads(
    cell: Cell, builts: dict[str, Built], monkeypatch: pytest.MonkeyPatch
) -> None:
    loadable = cell.verification.loadable("onnx", builts["onnx_model"].build)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1, 2})
    assert cell.verification.request(loadable).threads == 3
