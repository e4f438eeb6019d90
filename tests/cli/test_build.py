"""One checkpoint's way from file to release, and what a second build does, through the command line."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import BUILD, Project
from tests.warm import Started

VARIANTS = ["onnx_model", "onnx_optimized", "onnx_fp16", "onnx_int8_dynamic", "onnx_int8_static", "torch_int8"]
ROW_FIELDS = {
    *("model", "checkpoint", "family", "target", "artifact", "format", "precision", "verdict", "reason", "sha256"),
    *("size_bytes", "size_ratio", "accuracy", "accuracy_drop_points", "parity_max_abs", "latency_ms"),
    *("throughput_per_s", "peak_memory_bytes", "measured_on", "reused"),
}


def rows(project: Project, model: str = "tiny", **changes: str) -> dict[str, dict[str, Any]]:
    result = project.run("scorecard", "--model", model, "--json", **changes)
    assert result.returncode == 0, result.stderr
    return {row["artifact"]: row for row in json.loads(result.stdout)}


def test_scorecard_has_every_variant_and_exactly_one_winner(built: Project) -> None:
    scorecard = rows(built)
    assert list(scorecard) == ["checkpoint", *VARIANTS]
    assert [row["verdict"] for row in scorecard.values()].count("released") == 1
    assert scorecard["checkpoint"]["verdict"] == "baseline"
    assert all(set(row) >= ROW_FIELDS and row["reason"] for row in scorecard.values())


def test_what_was_not_measured_on_the_target_is_null(built: Project) -> None:
    for row in rows(built).values():
        assert row["latency_ms"] is row["peak_memory_bytes"] is row["measured_on"] is row["throughput_per_s"] is None
        remedy = "its instruction set can be emulated here: edge-assets emulator install arm-max"
        assert row["not_measured"] == f"not measured: no device attached; {remedy}"


def test_dynamic_int8_is_refused_for_a_graph_of_convolutions(built: Project) -> None:
    row = rows(built)["onnx_int8_dynamic"]
    assert row["verdict"] == "refused"
    assert "of the weights are in convolutions" in row["reason"]
    assert row["sha256"] is row["size_bytes"] is row["accuracy"] is None


def test_quantized_variants_are_smaller_and_still_right(built: Project) -> None:
    scorecard = rows(built)
    assert scorecard["onnx_int8_static"]["size_ratio"] < 0.6
    for name in ("onnx_model", "onnx_fp16", "onnx_int8_static", "torch_int8"):
        assert scorecard[name]["accuracy"] > 0.9
        assert abs(scorecard[name]["accuracy_drop_points"]) <= 2.0


@pytest.mark.slow
def test_a_variant_that_was_refused_is_not_marked_as_built(project: Project) -> None:
    result = project.build()
    assert result.returncode == 0, result.stdout + result.stderr
    said = [line.strip() for line in result.stdout.splitlines() if "onnx_int8_dynamic" in line]
    assert [line for line in said if line.startswith("- onnx_int8_dynamic: refused: ")]
    assert not [line for line in said if line.startswith("✓") or "built" in line]


def test_second_build_rebuilds_and_remeasures_nothing(copy_of_built: Project) -> None:
    assert not any(row["reused"] for row in rows(copy_of_built).values() if row["sha256"])
    before = snapshot(copy_of_built.home / "store", "blobs", "recipes")
    result = copy_of_built.build()
    assert result.returncode == 0
    assert "up to date, nothing rebuilt, nothing measured again" in result.stdout
    assert "0 built, 1 up to date, 0 failed" in result.stdout
    assert snapshot(copy_of_built.home / "store", "blobs", "recipes") == before
    assert all(row["reused"] for row in rows(copy_of_built).values())
    assert runs_by_status(copy_of_built) == {"SUCCESS": 2}, "no run was launched: the first build's and its scorecard's"


def test_a_second_target_with_the_same_parameters_builds_no_variant_again(copy_of_built: Project) -> None:
    result = copy_of_built.run("build", "--model", "tiny", "--target", "raspberry-pi-5")
    assert result.returncode == 0, result.stdout
    assert "building" not in result.stdout
    assert "onnx_int8_static: reused" in result.stdout
    assert re.search(r"✓ onnx_fp16: reused, \d+ KiB, accuracy \d+\.\d\d %, drop -?\d\.\d\d points", result.stdout)


def test_changed_calibration_rebuilds_only_what_depends_on_it(copy_of_built: Project) -> None:
    before = rows(copy_of_built)
    result = copy_of_built.build(TINY_CALIBRATION="2")
    assert result.returncode == 0, result.stdout
    assert "calibration_data: version 1 -> 2" in result.stdout or "calibration_data" in result.stdout
    assert "building onnx_model" not in result.stdout
    assert "building onnx_fp16" not in result.stdout
    assert {name: row["sha256"] for name, row in rows(copy_of_built, TINY_CALIBRATION="2").items()} == {
        name: row["sha256"] for name, row in before.items()
    }, "the same samples under a new version give the same bytes"


def test_corrupted_blob_is_named_and_rebuilt(copy_of_built: Project) -> None:
    sha256 = rows(copy_of_built)["onnx_int8_static"]["sha256"]
    blob = copy_of_built.home / "store" / "blobs" / sha256[:2] / sha256
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)
    result = copy_of_built.build()
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"corrupted blob {blob}" in result.stdout + result.stderr
    assert "building onnx_int8_static" in result.stdout
    assert "building onnx_model" not in result.stdout
    assert blob.exists()


def test_stopped_builds_leave_nothing_half_visible_and_the_next_goes_on(project: Project) -> None:
    """Interrupted once and killed twice, each at a later step of one build."""
    process, _printed = start_until(project, "✓ checkpoint")
    process.send_signal(signal.SIGINT)
    _output, errors = process.communicate()
    assert process.returncode == 130
    assert "interrupted: what was finished is kept" in errors
    assert "Traceback" not in errors
    finished = whole_recipes(project)
    for moment in ("building onnx_model", "verifying onnx_int8_static"):
        process, printed = start_until(project, moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert "checkpoint: reused" in printed
        assert finished <= whole_recipes(project)
        finished = whole_recipes(project)
    result = project.build()
    assert result.returncode == 0, result.stdout + result.stderr
    assert finished <= whole_recipes(project)
    assert not list((project.home / "cache" / "work").iterdir())
    assert runs_by_status(project).keys() <= {"SUCCESS", "FAILURE"}


def test_nothing_releasable_fails_and_says_what_came_closest(copy_of_built: Project) -> None:
    result = copy_of_built.build(TINY_SIZE="1000")
    assert result.returncode == 1
    assert "came closest: size" in result.stderr
    assert "over the budget of 1000 B" in result.stderr


def test_released_folder_runs_on_its_own(built: Project, tmp_path: Path) -> None:
    (folder,) = (built.home / "releases" / "tiny" / "graviton3").iterdir()
    copied = shutil.copytree(folder, tmp_path / "shipped")
    result = subprocess.run([sys.executable, "infer.py"], cwd=copied, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "largest difference from the outputs recorded at release: 0\n" in result.stdout
    manifest = json.loads((copied / "manifest.json").read_text())
    assert manifest["sha256"] == next(r["sha256"] for r in rows(built).values() if r["verdict"] == "released")
    assert "not measured: no device attached" in (copied / "MODEL_CARD.md").read_text()


@pytest.mark.parametrize("name", ["the artifact", "preprocess.py", "runtime.py", "sample.npz", "MODEL_CARD.md"])
def test_a_changed_file_of_a_release_is_named_before_anything_of_it_is_imported(
    built: Project, tmp_path: Path, name: str
) -> None:
    (folder,) = (built.home / "releases" / "tiny" / "graviton3").iterdir()
    copied = shutil.copytree(folder, tmp_path / "shipped")
    path = copied / (json.loads((copied / "manifest.json").read_text())["file"] if name == "the artifact" else name)
    with path.open("ab") as file:
        file.write(b"\nprint('planted code ran')\n")
    result = subprocess.run([sys.executable, "infer.py"], cwd=copied, capture_output=True, text=True)
    assert result.returncode == 1
    assert f"{path.name} is not the released file: sha256 " in result.stderr
    assert "planted" not in result.stdout


def test_a_file_that_was_put_into_a_release_is_named_and_never_imported(built: Project, tmp_path: Path) -> None:
    (folder,) = (built.home / "releases" / "tiny" / "graviton3").iterdir()
    copied = shutil.copytree(folder, tmp_path / "shipped")
    for name in ("argparse.py", "json.py", "numpy.py", "onnxruntime.py"):  # what it imports, under the same names
        (copied / name).write_text("print('planted code ran')\n")
    result = subprocess.run([sys.executable, "infer.py"], cwd=copied, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "planted" not in result.stdout
    assert "not part of the release, and not used: argparse.py, json.py, numpy.py, onnxruntime.py" in result.stderr
    assert "largest difference from the outputs recorded at release: 0\n" in result.stdout


def start_until(project: Project, words: str) -> tuple[Started, str]:
    """A build that has just printed `words`, still running, and all that it printed."""
    process = project.start(*BUILD)
    printed = ""
    for line in process.stdout:
        printed += line
        if words in line:
            return process, printed
    raise AssertionError(f"the build ended without '{words}': {printed}")


def whole_recipes(project: Project) -> set[str]:
    """Names of the memos in the store, each of whose blobs is there in its whole length."""
    memos = list((project.home / "store" / "recipes").rglob("*.json"))
    for path in memos:
        data = json.loads(path.read_text())
        for file in (data["artifact"] or {"files": []})["files"]:
            blob = project.home / "store" / "blobs" / file["sha256"][:2] / file["sha256"]
            assert blob.stat().st_size == file["size"]
    return {path.name for path in memos}


def snapshot(store: Path, *folders: str) -> dict[str, int]:
    files = [path for folder in folders for path in (store / folder).rglob("*") if path.is_file()]
    return {str(path): path.stat().st_mtime_ns for path in files}


def runs_by_status(project: Project) -> dict[str, int]:
    import dagster as dg

    with dg.DagsterInstance.from_config(str(project.home / "dagster")) as instance:
        statuses = [run.status.value for run in instance.get_runs()]
    return {status: statuses.count(status) for status in statuses}


def test_a_checkpoint_of_another_architecture_is_named_and_never_taken_for_the_newest(
    copy_of_built: Project, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import save_file

    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, other)
    named = copy_of_built.build("--checkpoint", str(other))
    assert named.returncode == 1
    assert "checkpoint other-" in named.stderr
    assert f"({other.name}) holds no tensor of the architecture" in named.stderr
    newest = copy_of_built.build()
    assert newest.returncode == 0, newest.stdout + newest.stderr
    assert "0 built, 1 up to date, 0 failed" in newest.stdout, newest.stdout + newest.stderr


def test_a_broken_file_that_is_newer_is_named_while_the_last_whole_one_is_built(copy_of_built: Project) -> None:
    (copy_of_built.checkpoints / "zz-last.safetensors").write_bytes(b"half")
    result = copy_of_built.build()
    assert result.returncode == 0
    assert "left out for now: checkpoint" in result.stderr
    assert "zz-last.safetensors" in result.stderr


def test_a_copy_of_a_checkpoint_is_said_to_be_one(copy_of_built: Project) -> None:
    (first,) = copy_of_built.checkpoints.iterdir()
    shutil.copy(first, copy_of_built.checkpoints / "second.safetensors")
    expected = re.compile(r"second\.safetensors has the content of tiny-[0-9a-f]{8}: it is one checkpoint")
    shown = copy_of_built.run("scorecard", "--model", "tiny", "--checkpoint", "second")
    built = copy_of_built.build("--checkpoint", "second")
    for result in (shown, built):
        assert result.returncode == 0, result.stderr
        assert len(expected.findall(result.stderr)) == 1, result.stderr
    assert "0 built, 1 up to date" in built.stdout


def test_a_wrong_entry_of_a_device_is_said_by_build_and_doctor(copy_of_built: Project) -> None:
    file = copy_of_built.folder / "devices.yaml"
    file.write_text("kitchen-pi:\n  target: graviton3\n  address: local\n  python: /usr/bin/python3\n")
    fault = "device kitchen-pi.python: is no field that there is."
    built = copy_of_built.build("--quiet", EDGE_ASSETS_DEVICES=str(file))
    assert built.returncode == 0, built.stderr
    assert built.stderr.count(f"a device is left out, because its entry is wrong: {fault}") == 1
    assert copy_of_built.run("doctor").returncode == 0
    for path, reason in ((file, fault), (file.with_name("none.yaml"), "none.yaml: cannot be read: No such file")):
        doctor = copy_of_built.run("doctor", EDGE_ASSETS_DEVICES=str(path))
        assert doctor.returncode == 1
        assert doctor.stdout.count(reason) == 1
        assert "Traceback" not in doctor.stderr


def test_outputs_that_a_changed_spec_declares_otherwise_are_refused_after_a_build_too(copy_of_built: Project) -> None:
    result = copy_of_built.build(TINY_CLASSES="12")
    assert result.returncode == 1
    assert "output 'logits' is float32 (8, 10), the spec declares float32 ('batch', 12)" in result.stderr
