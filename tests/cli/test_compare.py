"""`edge-assets compare`, on two checkpoints that were built."""

import json
from pathlib import Path

import dagster as dg
import pytest

from tests.conftest import Project
from tests.pipeline.test_comparison import forgetful


@pytest.fixture(scope="module")
def compared(built: Project, checkpoint_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The built project with a second checkpoint, which is newer and worse, built too. Tests only read it."""
    project = built.copy_to(tmp_path_factory.mktemp("compared"))
    forgetful(checkpoint_file, project.checkpoints / "worse.safetensors")
    result = project.build("--checkpoint", "worse.safetensors")
    assert result.returncode == 0, result.stdout + result.stderr
    return project


def keys(project: Project) -> tuple[str, str]:
    """Of the first checkpoint and of the worse one."""
    folder = project.home / "store" / "pointers" / "checkpoints" / "tiny"
    first, worse = sorted(path.stem for path in folder.iterdir())
    return first, worse


@pytest.mark.slow
def test_a_regression_over_the_gate_is_named_and_exits_with_1(compared: Project) -> None:
    first, worse = keys(compared)
    result = compared.run("compare")
    assert result.returncode == 1, result.stderr
    assert f"{worse} against {first}" in result.stdout
    assert "regression: graviton3: " in result.stdout
    assert "over the gate of 2.00" in result.stdout
    assert "Traceback" not in result.stderr
    path = Path(result.stdout.partition("page: ")[2].strip())
    assert path == compared.home / "comparisons" / "tiny" / f"{worse}-against-{first}.html"
    assert "over the gate of 2.00" in path.read_text()


def test_within_the_gate_it_exits_with_0(compared: Project, tmp_path: Path) -> None:
    page = tmp_path / "pages" / "compared.html"
    result = compared.run("compare", *keys(compared), "--page", str(page), TINY_DROP="50")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "worse" in result.stdout
    assert "regression" not in result.stdout
    assert page.exists()


def test_what_got_better_or_stayed_is_no_regression(compared: Project) -> None:
    first, worse = keys(compared)
    better = compared.run("compare", worse, first)
    assert better.returncode == 0, better.stdout + better.stderr
    assert f"{first} against {worse}" in better.stdout
    assert "better" in better.stdout
    same = compared.run("compare", first, first)
    assert same.returncode == 0
    assert "better" not in same.stdout
    assert "worse" not in same.stdout


def test_nothing_is_built_for_it(compared: Project) -> None:
    recipes = compared.home / "store" / "recipes"
    before = sorted(recipes.rglob("*.json"))
    compared.run("compare")
    assert sorted(recipes.rglob("*.json")) == before


def test_a_model_of_which_one_checkpoint_was_built_says_so(built: Project) -> None:
    result = built.run("compare")
    assert result.returncode == 1
    assert "is the only checkpoint of tiny that was built yet: edge-assets build --model tiny" in result.stderr
    one = built.run("compare", "tiny-1")
    assert one.returncode == 2
    assert "give both checkpoints, or neither" in one.stderr


def test_the_scorecard_has_one_line_per_target_and_all_variants_of_one_that_is_named(compared: Project) -> None:
    first, worse = keys(compared)
    short = compared.run("scorecard")
    assert f"{worse}: what ships where" in short.stdout
    (line,) = [line for line in short.stdout.splitlines() if line.startswith("graviton3")]
    assert "host, not timed" in line
    whole = compared.run("scorecard", "--target", "graviton3", "--checkpoint", first)
    assert f"{first} on graviton3: not measured: no device attached" in whole.stdout
    for row in json.loads(compared.run("scorecard", "--json").stdout):
        assert row["artifact"] in whole.stdout
    by_file = compared.run("scorecard", "--target", "graviton3", "--checkpoint", "tiny.safetensors")
    assert by_file.stdout == whole.stdout
    unknown = compared.run("scorecard", "--target", "graviton4")
    assert unknown.returncode == 1
    assert "graviton3" in unknown.stderr


def test_the_scorecard_of_the_worse_one_has_a_failed_check(compared: Project) -> None:
    first, worse = keys(compared)
    with dg.DagsterInstance.from_config(str(compared.home / "dagster")) as instance:
        found = {}
        for run in instance.get_runs(dg.RunsFilter(job_name="tiny_scorecard")):
            for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION):
                assert entry.dagster_event is not None
                evaluation = entry.dagster_event.asset_check_evaluation_data
                found[run.tags["dagster/partition"]] = (evaluation.passed, evaluation.description)
    assert found[first] == (True, "no earlier checkpoint was built")
    passed, sentence = found[worse]
    assert not passed
    assert "over the gate of 2.00" in str(sentence)
