"""The sensor and the schedule of a registered model, asked directly."""

import json
from typing import TYPE_CHECKING

from tests.conftest import Project

if TYPE_CHECKING:
    from tests.ask import Night, Tick


def ask(project: Project, *arguments: str, **changes: str) -> str:
    """What tests/ask.py prints in the project: JSON."""
    result = project.run_module("tests.ask", *arguments, **changes)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-1]


def ask_sensor(project: Project, times: int) -> "list[Tick]":
    """The answers of the checkpoint sensor to so many ticks."""
    return json.loads(ask(project, "sensor", str(times)))


def ask_schedule(project: Project, **changes: str) -> "Night":
    """The answer of the nightly schedule."""
    return json.loads(ask(project, "schedule", **changes))


def test_the_first_tick_registers_history_and_builds_only_the_newest(project: Project) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    state = load_file(project.checkpoints / "tiny.safetensors")
    (project.checkpoints / "tiny.safetensors").unlink()
    for epoch in (9, 10, 2):
        save_file(
            {**state, "classifier.bias": torch.full((10,), float(epoch))}, project.checkpoints / f"e{epoch}.safetensors"
        )
    (project.checkpoints / "notes.txt").write_text("not a checkpoint")
    first, second, third = ask_sensor(project, 3)
    assert first == {"runs": [], "added": []}, "nothing is known to be settled yet"
    assert [key.rpartition("-")[0] for key in second["added"]] == ["e2", "e9", "e10"]
    assert {str(run).partition("|")[0].rpartition("-")[0] for run in second["runs"]} == {"e10"}
    assert third == {"runs": [], "added": []}


def test_nightly_rebuilds_only_what_is_stale_of_the_newest(copy_of_built: Project) -> None:
    copy_of_built.run("build", "--model", "tiny")  # the other target too
    fresh = ask_schedule(copy_of_built)
    assert fresh["runs"] == []
    assert "is up to date on every target" in (fresh["skip"] or "")
    stale = ask_schedule(copy_of_built, TINY_CALIBRATION="2")
    assert [str(key).partition("|")[2] for key in stale["runs"]] == ["graviton3", "raspberry-pi-5"]
