"""A toolchain that aborts, hangs or raises fails its own call, with its log, and nothing else."""

import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping
from dataclasses import replace
from multiprocessing import util
from pathlib import Path
from typing import Any

import psutil
import pytest

from edge_assets.core import isolation
from edge_assets.core.variant import CHECKPOINT, BuildRequest
from edge_assets.errors import ConverterError, ExportError
from edge_assets.families.cpu import CPU
from edge_assets.pipeline.cell import Cell
from edge_assets.targets.project import target
from edge_assets.toolchains.onnx import export as onnx
from resources import checkpoints
from resources.store import open_store
from tests.conftest import ROOT
from tests.tiny.spec import TINY


def abort() -> None:
    os.write(2, b"libconverter.so: assertion failed: rank < 5\n")
    os.abort()


def hang() -> None:
    print("pass 3 of 7", flush=True)
    time.sleep(600)


def raise_value_error() -> None:
    raise ValueError("no such layout\nwith more lines")


def raise_export_error() -> None:
    raise ExportError("operator x in module y")


def where(value: int) -> tuple[int, int]:
    print("to standard output")
    return os.getpid(), 2 * value


def abort_build(request: BuildRequest) -> Mapping[str, Any]:
    print(f"converting {request.source.name}", file=sys.stderr, flush=True)
    os.abort()


def call(function: Any, *arguments: Any, seconds: float = 60) -> Any:
    return isolation.call("test", function, *arguments, seconds=seconds)


def test_a_process_stays_for_the_next_call_and_its_output_is_not_ours(capfd: pytest.CaptureFixture[str]) -> None:
    first, second = call(where, 3), call(where, 4)
    assert first == (second[0], 6)
    assert second[1] == 8
    assert first[0] != os.getpid()
    assert "to standard output" not in capfd.readouterr().out


def test_close_ends_the_processes_and_the_next_call_gets_a_new_one() -> None:
    first, _ = call(where, 1)
    isolation.close()
    assert not psutil.pid_exists(first)
    assert call(where, 1)[0] != first


KILLED = """
    import os, signal
    from edge_assets.core import isolation
    isolation.call("killed", os.getcwd, seconds=60)
    os.kill(os.getpid(), signal.SIGKILL)
"""


SHARING = """
from edge_assets.core import isolation
from tests.core.test_isolation import share

isolation.call("sharing", share, seconds=60)
isolation.close()
"""


def share() -> None:
    """What joblib and tqdm make too: something that processes share. Whose process ends slowly here."""
    globals()["shared"] = multiprocessing.get_context("spawn").Semaphore()
    util.Finalize(None, time.sleep, args=(1,), exitpriority=10)


def test_what_a_library_shared_is_not_reported_as_leaked() -> None:
    script = [sys.executable, "-c", SHARING]
    ended = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stderr == ""


def test_logs_of_killed_processes_are_swept_and_those_of_living_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    isolation.close()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED)], env=environment)
    (left,) = tmp_path.glob("*.log")
    call(where, 1)
    (own,) = set(tmp_path.glob("*.log")) - {left}
    for log in (left, own):
        os.utime(log, (1, 1))
    isolation.sweep_logs()
    assert list(tmp_path.glob("*.log")) == [own]
    isolation.close()
    assert not list(tmp_path.glob("*.log"))


def test_a_native_abort_is_an_error_with_its_log_and_the_next_call_works() -> None:
    with pytest.raises(ConverterError, match=r"abort died with exit code .*\n.*assertion failed: rank < 5"):
        call(abort)
    assert call(where, 1)[1] == 2


def test_a_hang_is_stopped() -> None:
    with pytest.raises(ConverterError, match=r"hang took longer than 4 s and was stopped. Its log:\npass 3 of 7"):
        call(hang, seconds=4)
    assert call(where, 1)[1] == 2


def test_an_unexpected_error_is_one_line_and_our_own_keeps_its_type() -> None:
    with pytest.raises(ConverterError, match=r"failed: ValueError: no such layout\nwith more lines. It logged nothing"):
        call(raise_value_error)
    with pytest.raises(ExportError, match=r"^operator x in module y$"):
        call(raise_export_error)


def test_a_crashing_converter_fails_its_variant_alone_and_leaves_nothing(tmp_path: Path, checkpoint_file: Path) -> None:
    variant = replace(onnx.MODEL, name="crashing", build=abort_build, process="test")
    store = open_store(str(tmp_path / "store"), tmp_path / "cache")
    checkpoint = checkpoints.register(store, "tiny", str(checkpoint_file))
    cell = Cell(TINY, CPU, target("graviton3"), checkpoint, store, lambda _line: None)
    source = cell.reference.build()
    assert source.variant == CHECKPOINT
    built = cell.variants.build(variant, source)
    assert built.failed is not None
    assert built.artifact is None
    assert re.search(r"abort_build died with exit code .*\nconverting tiny.safetensors", built.failed)
    log = store.cache / "failures" / str(built.failure_log)
    assert "converting tiny.safetensors" in log.read_text()
    assert store.recall(cell.variants.recipe(variant, source, {})) is None
    assert not list((tmp_path / "cache" / "work").iterdir())
