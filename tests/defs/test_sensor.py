"""The checkpoint sensor as folders grow and processes die: asked directly, and with a real daemon."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.remote_representation.external_data import ScheduleExecutionErrorSnap, SensorExecutionErrorSnap
from dagster._core.test_utils import create_run_for_test
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._grpc.impl import get_external_schedule_execution, get_external_sensor_execution
from safetensors.numpy import save_file

from edge_assets.defs import arrivals
from edge_assets.defs.arrivals import Cursor, look
from edge_assets.defs.requests import Runs, stale_requests
from edge_assets.defs.schedules import nightly_schedule
from edge_assets.defs.sensors import checkpoint_sensor
from edge_assets.families.families import family_targets
from edge_assets.spec.model import Automation
from resources import checkpoints
from resources.artifacts import ArtifactStoreResource
from resources.checkpoints import Checkpoint
from resources.records import Pointers
from resources.store import ArtifactStore, open_store
from tests.conftest import Project
from tests.serving import brisk_instance, wait_for
from tests.tiny.spec import TINY

DAGSTER = str(Path(sys.executable).parent / "dagster")


@dataclass
class Watched:
    """A checkpoint folder, and the sensor of a model that watches it, as a daemon would ask it."""

    folder: Path
    store: ArtifactStore
    instance: dg.DagsterInstance
    cursor: Cursor = field(default_factory=Cursor)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.spec = replace(TINY, checkpoints=str(self.folder))

    def drop(self, *names: str, content: int | None = None) -> None:
        """Files of four bytes of weights, each its own unless the content is given."""
        for name in names:
            number = float(len(list(self.folder.iterdir())) if content is None else content)
            save_file({"weight": np.array([number], np.float32)}, self.folder / name)

    def tick(self, seconds: float = 60, lost: bool = False) -> tuple[list[str], list[str]]:
        """Names of the partitions added and of the runs asked for. What is lost never reaches Dagster's database."""
        answer = look(self.spec, self.store, self.instance, self.cursor, self.said.append, seconds)
        self.instance.add_dynamic_partitions("tiny_checkpoints", answer.partitions)  # which Dagster does first
        if not lost:
            self.cursor = Cursor.read(answer.cursor.write())
        return [stem(key) for key in answer.partitions], [str(request.partition_key) for request in answer.requests]

    def settle(self) -> tuple[list[str], list[str]]:
        """Tick until nothing is left to do."""
        added, asked = [], []
        for _ in range(50):
            new, requests = self.tick()
            added += new
            asked += requests
            if not self.cursor.waiting:
                return added, asked
        raise AssertionError("it does not come to rest")

    @property
    def keys(self) -> list[str]:
        """Registered, from the oldest to the newest."""
        return [stem(checkpoint.key) for checkpoint in checkpoints.registered(self.store, "tiny")]


def stem(key: str) -> str:
    return key.rpartition("-")[0]


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    (tmp_path / "checkpoints").mkdir()
    store = open_store(str(tmp_path / "store"), tmp_path / "cache")
    with dg.DagsterInstance.ephemeral() as instance:
        yield Watched(tmp_path / "checkpoints", store, instance)


# --- growth ----------------------------------------------------------------------------------------------


def test_history_becomes_partitions_and_only_its_newest_is_built(watched: Watched) -> None:
    watched.drop(*(f"e{epoch}.safetensors" for epoch in range(1, 13)))
    assert watched.tick() == ([], []), "nothing is known to be settled yet"
    added, asked = watched.tick()
    assert added == [f"e{epoch}" for epoch in range(1, 13)]
    assert {stem(key.partition("|")[0]) for key in asked} == {"e12"}
    assert len(asked) == 2
    assert watched.keys == added


def test_a_tick_without_time_registers_one_file_the_newest_first_and_the_order_stays(watched: Watched) -> None:
    watched.drop(*(f"e{epoch}.safetensors" for epoch in range(1, 6)))
    watched.tick()
    assert [watched.tick(seconds=0)[0] for _ in range(3)] == [["e5"], ["e4"], ["e3"]]
    watched.drop("e6.safetensors")
    watched.settle()
    assert watched.keys == ["e1", "e2", "e3", "e4", "e5", "e6"]


def test_only_what_was_registered_is_recorded_and_only_what_is_built_is_copied(watched: Watched) -> None:
    watched.drop(*(f"e{epoch}.safetensors" for epoch in range(1, 6)))
    watched.settle()
    held = [c.key for c in checkpoints.registered(watched.store, "tiny") if watched.store.holds(c.file)]
    assert [stem(key) for key in held] == ["e5"]


def test_a_thousand_files_settle_in_few_ticks_with_a_short_cursor_and_then_nothing_is_written(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.drop("e0.safetensors")
    template = (watched.folder / "e0.safetensors").read_bytes()
    for epoch in range(1, 1001):
        (watched.folder / f"e{epoch}.safetensors").write_bytes(template[:-4] + epoch.to_bytes(4, "little"))
    listings = counted(monkeypatch, Pointers, "names")
    lengths = []
    while watched.cursor.waiting:
        watched.tick(seconds=20)
        lengths.append(len(watched.cursor.write()))
        assert len(lengths) < 20
    assert len(watched.keys) == 1001
    assert watched.keys[-1] == "e1000"
    assert max(lengths) < 300, "whatever the number of files"
    assert len(listings) < 10 * len(lengths), "the registrations are listed by the tick, not by the file"
    writes = counted(monkeypatch, Pointers, "set")
    assert watched.tick() == ([], [])
    assert writes == [], "a tick with nothing to do writes nothing"


def counted(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> list[object]:
    """Arguments of every call of a method from now on."""
    calls: list[object] = []
    method = getattr(owner, name)

    def call(*arguments: object, **named: object) -> object:
        calls.append(arguments)
        return method(*arguments, **named)

    monkeypatch.setattr(owner, name, call)
    return calls


def test_a_large_file_is_hashed_by_a_process_that_outlives_the_tick(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "LARGE", 1)
    watched.drop("big.safetensors")
    (watched.folder / "broken.safetensors").write_bytes(b"\x13" * 100)
    watched.tick()
    added: list[str] = []
    deadline = time.monotonic() + 60
    while watched.cursor.waiting:
        added += watched.tick()[0]
        assert time.monotonic() < deadline
        time.sleep(1)
    assert added == ["big"]
    assert len([line for line in watched.said if "broken.safetensors" in line]) == 1


# --- odd files -------------------------------------------------------------------------------------------


def test_odd_files_are_said_once_and_are_in_nobodys_way(watched: Watched) -> None:
    folder = watched.folder
    (folder / "last.safetensors").symlink_to(folder / "gone.safetensors")
    (folder / "loop.safetensors").symlink_to(folder / "loop.safetensors")
    (folder / "folder.safetensors").mkdir()
    os.mkfifo(folder / "pipe.pt")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin", "z.h5", "z.gguf"):
        (folder / name).write_bytes(b"x")
    (folder / "zz-truncated.safetensors").write_bytes(b"\x13" * 4096)
    (folder / "notes.txt").write_text("of nobody's interest")
    watched.drop("model.SAFETENSORS", f"{'n' * 235}.safetensors", "a...b.safetensors")
    added, asked = watched.settle()
    assert added == ["a_b", "model", "n" * 91]
    assert {stem(key.partition("|")[0]) for key in asked} == {"n" * 91}, "the last in natural order of names"
    assert all(len(key) <= 100 for key in watched.instance.get_dynamic_partitions("tiny_checkpoints"))
    assert len(watched.said) == len(set(watched.said)) == 11
    for reason in (
        "a link to nothing",
        "Too many levels",
        "is not a file",
        "a trainer's own state",
        "'.h5' is not read",
    ):
        assert any(reason in line for line in watched.said), reason
    watched.drop("another.safetensors")
    assert watched.settle()[0] == ["another"]
    assert len(watched.said) == 11


def test_a_file_that_is_deleted_between_listing_and_reading_stops_nothing(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.drop("kept.safetensors", "zz-deleted.safetensors")
    watched.tick()

    def listed_then_deleted(source: str) -> checkpoints.Listing:
        listing = scan(source)
        (watched.folder / "zz-deleted.safetensors").unlink(missing_ok=True)
        return listing

    scan = checkpoints.scan
    monkeypatch.setattr(checkpoints, "scan", listed_then_deleted)
    assert watched.tick()[0] == ["kept"]


def test_a_file_that_changes_while_it_lies_there_waits_until_it_has_settled(watched: Watched) -> None:
    watched.drop("e1.safetensors", content=1)
    watched.tick()
    watched.drop("e1.safetensors", content=2)
    assert watched.tick() == ([], [])
    assert watched.tick()[0] == ["e1"]
    watched.settle()
    stat = (watched.folder / "e1.safetensors").stat()
    watched.drop("e1.safetensors", content=3)
    os.utime(watched.folder / "e1.safetensors", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert watched.settle()[0] == ["e1"], "of equal size and time, and yet another"


# --- nothing is lost, nothing is asked for twice ---------------------------------------------------------


def test_what_dagster_never_kept_is_asked_for_again(watched: Watched) -> None:
    watched.drop("e1.safetensors")
    watched.settle()
    watched.drop("e2.safetensors")
    watched.tick()
    added, asked = watched.tick(lost=True)
    assert added == ["e2"]
    assert len(asked) == 2
    assert watched.tick()[1] == asked, "the partition is there, its runs are not"
    assert watched.settle() == ([], [])


def test_what_is_lost_of_a_file_that_training_has_removed_is_asked_for_again(watched: Watched) -> None:
    watched.drop("e1.safetensors")
    watched.settle()
    watched.drop("e2.safetensors")
    watched.tick()
    _, asked = watched.tick(lost=True)
    (watched.folder / "e2.safetensors").unlink()
    assert watched.tick()[1] == asked
    newest = checkpoints.registered(watched.store, "tiny")[-1]
    assert checkpoints.fetch(watched.store, newest, str(watched.folder)).is_file(), (
        "it was copied when it was asked for"
    )


def test_what_ran_or_is_known_starts_nothing(watched: Watched) -> None:
    watched.drop("e1.safetensors")
    watched.settle()
    registered = checkpoints.registered(watched.store, "tiny")[0]
    key = dg.AssetKey(["tiny", "cpu", "checkpoint"])
    event = dg.AssetMaterialization(key, partition=f"{registered.key}|graviton3")
    watched.instance.report_runless_asset_event(event)
    (watched.folder / "the-same.safetensors").write_bytes((watched.folder / "e1.safetensors").read_bytes())
    assert watched.settle() == ([], [])


def test_another_instance_of_the_same_store_gets_the_partitions_and_builds_the_newest(watched: Watched) -> None:
    watched.drop(*(f"e{epoch}.safetensors" for epoch in range(1, 4)))
    watched.settle()
    with dg.DagsterInstance.ephemeral() as instance:
        other = Watched(watched.folder, watched.store, instance)
        added, asked = other.settle()
        assert added == ["e1", "e2", "e3"]
        assert {stem(key.partition("|")[0]) for key in asked} == {"e3"}


def asked_targets(watched: Watched, checkpoint: Checkpoint) -> list[str]:
    """What a schedule would ask for now."""
    ((family, targets),) = family_targets(watched.spec)
    known = Runs(watched.instance)
    found = stale_requests(watched.spec, family, targets, checkpoint, watched.store, known, run_key="nightly")
    return [str(request.partition_key).partition("|")[2] for request in found]


def test_a_cell_that_runs_is_not_asked_for_again(watched: Watched) -> None:
    watched.drop("e1.safetensors")
    watched.settle()
    checkpoint = checkpoints.registered(watched.store, "tiny")[0]
    assert asked_targets(watched, checkpoint) == ["graviton3", "raspberry-pi-5"]
    tags = {"dagster/partition": f"{checkpoint.key}|graviton3"}
    run = create_run_for_test(watched.instance, job_name="tiny_cpu", tags=tags, status=dg.DagsterRunStatus.STARTED)
    assert asked_targets(watched, checkpoint) == ["raspberry-pi-5"]
    watched.instance.report_run_failed(run)
    assert asked_targets(watched, checkpoint) == ["graviton3", "raspberry-pi-5"]


@pytest.mark.parametrize("assets", [["checkpoint"], ["checkpoint", "release"]])
def test_what_a_person_or_a_backfill_started_is_not_asked_for_again(watched: Watched, assets: list[str]) -> None:
    """Dagster's page runs assets in a job of its own."""
    watched.drop("e1.safetensors")
    watched.settle()
    checkpoint = checkpoints.registered(watched.store, "tiny")[0]
    tags = {
        "dagster/partition": f"{checkpoint.key}|graviton3",
        "dagster/partition/checkpoint": checkpoint.key,
        "dagster/partition/target": "graviton3",
    }

    def start(model: str, status: dg.DagsterRunStatus) -> dg.DagsterRun:
        selection = frozenset(dg.AssetKey([model, "cpu", name]) for name in assets)
        return create_run_for_test(
            watched.instance,
            job_name="__ASSET_JOB",
            tags=tags,
            status=status,
            asset_selection=selection,
        )

    ((family, _targets),) = family_targets(watched.spec)
    start("another", dg.DagsterRunStatus.STARTED)
    assert asked_targets(watched, checkpoint) == ["graviton3", "raspberry-pi-5"], "that is another model's"
    assert not Runs(watched.instance).has(watched.spec, family, checkpoint.key)
    for status in (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING):
        run = start("tiny", status)
        assert asked_targets(watched, checkpoint) == ["raspberry-pi-5"], status
        watched.instance.report_run_failed(run)
    assert asked_targets(watched, checkpoint) == ["graviton3", "raspberry-pi-5"]
    assert Runs(watched.instance).has(watched.spec, family, checkpoint.key), "it ran"


def test_a_model_that_is_built_when_asked_gets_partitions_and_no_runs(watched: Watched) -> None:
    watched.spec = replace(watched.spec, automation=Automation(on_checkpoint=False))
    watched.drop("e1.safetensors", "e2.safetensors")
    assert watched.settle() == (["e1", "e2"], [])
    watched.drop("e3.safetensors")
    assert watched.settle() == (["e3"], [])
    assert not any(watched.store.holds(c.file) for c in checkpoints.registered(watched.store, "tiny"))
    watched.spec = replace(watched.spec, automation=Automation())
    watched.drop("e4.safetensors")
    added, asked = watched.settle()
    assert added == ["e4"]
    assert {stem(key.partition("|")[0]) for key in asked} == {"e4"}, "from now on, not what was"


def test_a_tick_that_starts_nothing_says_why(watched: Watched, tmp_path: Path) -> None:
    def tick(automation: Automation, cursor: str | None) -> dg.SensorResult:
        """What Dagster is answered, and that it holds together."""
        spec = replace(watched.spec, automation=automation)
        sensor = checkpoint_sensor(spec, [])
        resources = {"store": ArtifactStoreResource(root=str(tmp_path / "store"), cache=str(tmp_path / "cache"))}
        context = dg.build_sensor_context(watched.instance, cursor=cursor, resources=resources)
        answer = sensor(context)
        assert isinstance(answer, dg.SensorResult)
        assert answer.skip_reason is not None
        return answer

    watched.drop("e1.safetensors")
    by_hand = Automation(on_checkpoint=False)
    first = tick(by_hand, None)
    second = tick(by_hand, first.cursor)
    assert second.skip_reason is not None
    assert second.skip_reason.skip_message == (
        "new partitions: 1. tiny is built when somebody asks for it: its spec says automation.on_checkpoint=False, so "
        "materialize its assets, or run edge-assets build"
    )
    assert second.dynamic_partitions_requests
    third = tick(Automation(), second.cursor)
    assert third.skip_reason is not None
    assert third.skip_reason.skip_message == "no new checkpoint to build"


def test_a_tick_that_fails_is_one_message_without_a_traceback(tmp_path: Path) -> None:
    """As Dagster keeps it of a tick and shows it on its page."""

    @dg.asset
    def nothing() -> None:
        pass

    nowhere = "http://127.0.0.1:1/store"
    spec = replace(TINY, checkpoints=nowhere)
    ((family, targets),) = family_targets(spec)
    job = dg.define_asset_job("tiny_cpu", selection=[nothing])
    repository = dg.Definitions(
        assets=[nothing],
        jobs=[job],
        sensors=[checkpoint_sensor(spec, [job])],
        schedules=[nightly_schedule(spec, family, targets, job)],
        resources={"store": ArtifactStoreResource(root=nowhere, cache=str(tmp_path / "cache"))},
    ).get_repository_def()
    instance = dg.DagsterInstance.local_temp(str(tmp_path)).get_ref()
    ticks = (
        get_external_sensor_execution(
            repository,
            code_location_origin=InProcessCodeLocationOrigin(LoadableTargetOrigin()),
            instance_ref=instance,
            sensor_name="tiny_checkpoint_sensor",
            last_tick_completion_timestamp=None,
            last_run_key=None,
            cursor=None,
            log_key=None,
            last_sensor_start_timestamp=None,
        ),
        get_external_schedule_execution(
            repository,
            instance_ref=instance,
            schedule_name="tiny_cpu_nightly",
            scheduled_execution_timestamp=0,
            scheduled_execution_timezone=None,
            log_key=None,
        ),
    )
    for tick in ticks:
        assert isinstance(tick, SensorExecutionErrorSnap | ScheduleExecutionErrorSnap)
        told = tick.error
        assert told is not None
        assert told.stack == []
        assert told.cause is None
        assert told.context is None
        assert nowhere in told.message
        assert "Traceback" not in told.message
        assert len(told.message.splitlines()) <= 2, "what it was, and where its log is"


def test_automated_runs_have_a_priority_below_those_of_people(watched: Watched) -> None:
    watched.drop("e1.safetensors")
    watched.tick()
    answer = look(watched.spec, watched.store, watched.instance, watched.cursor, watched.said.append)
    assert {int(request.tags["dagster/priority"]) for request in answer.requests} == {-10}


def test_the_sensor_takes_the_cursor_of_an_earlier_version(watched: Watched) -> None:
    watched.drop("e1.safetensors")
    old = json.dumps({"seen": {}, "done": {}, "first": False})
    assert Cursor.read(old) == Cursor.read(None) == Cursor()


# --- with a daemon ---------------------------------------------------------------------------------------


@pytest.fixture
def watched_project(tmp_path: Path, checkpoint_file: Path) -> Project:
    """A checkpoint folder, and a Dagster instance for a daemon."""
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(checkpoint_file, tmp_path / "checkpoints")
    environment = {"EDGE_ASSETS_SENSOR_SECONDS": "2", "DAGSTER_HOME": str(tmp_path / "home" / "dagster")}
    brisk_instance(tmp_path / "home")
    with dg.DagsterInstance.from_config(str(tmp_path / "home" / "dagster")):
        pass  # the daemon and the test must not create its databases at the same time
    return Project(tmp_path / "home", tmp_path / "checkpoints", environment)


@contextmanager
def running_daemon(project: Project) -> Iterator[None]:
    """A dagster-daemon of the project."""
    command = [f"{DAGSTER}-daemon", "run", "-m", "edge_assets.definitions"]
    with (project.folder / "daemon.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=project.folder, env=project.env(), stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def runs(instance: dg.DagsterInstance) -> dict[str, str]:
    """Status of the family job's runs by partition."""
    found = instance.get_runs(dg.RunsFilter(job_name="tiny_cpu"))
    return {run.tags["dagster/partition"]: run.status.value for run in found}


def test_a_daemon_takes_up_what_another_lost_and_what_a_person_starts_overtakes_it(
    watched_project: Project,
) -> None:
    """The other died when Dagster had added the partition and not yet kept the runs."""
    store = open_store(str(watched_project.home / "store"), watched_project.home / "cache")
    checkpoints.discover(store, "tiny", str(watched_project.checkpoints))
    key = checkpoints.registered(store, "tiny")[0].key
    with dg.DagsterInstance.from_config(str(watched_project.home / "dagster")) as instance:
        instance.add_dynamic_partitions("tiny_checkpoints", [key])
        blocker = create_run_for_test(instance, job_name="another", status=dg.DagsterRunStatus.STARTED)
        with running_daemon(watched_project):
            wait_for(lambda: sorted(runs(instance).values()) == ["QUEUED", "QUEUED"], 120, "both wait")
            watched = Watched(watched_project.checkpoints, store, instance)
            assert asked_targets(watched, checkpoints.lookup(store, "tiny", key)) == [], "they wait already"
            tags = json.dumps({"dagster/partition": key})
            command = ["job", "launch", "-m", "edge_assets.definitions", "-j", "tiny_scorecard", "--tags", tags]
            environment = watched_project.env()
            subprocess.run([DAGSTER, *command], cwd=watched_project.folder, env=environment, check=True)
            (manual,) = instance.get_runs(dg.RunsFilter(job_name="tiny_scorecard"))
            assert manual.status == dg.DagsterRunStatus.QUEUED
            instance.report_run_failed(blocker)
            wait_for(lambda: finished(instance, manual.run_id), 120, "the run by hand ends")
            wait_for(lambda: started(instance), 120, "one of the others has started")
            first = min(instance.get_run_records(), key=lambda record: record.start_time or float("inf"))
            assert first.dagster_run.run_id == manual.run_id, "asked for last, started first"


def finished(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether the run has come to an end, good or bad."""
    run = instance.get_run_by_id(run_id)
    return run is not None and run.is_finished


def started(instance: dg.DagsterInstance) -> bool:
    """Whether one of the sensor's runs has started."""
    return any(status != "QUEUED" for status in runs(instance).values())
