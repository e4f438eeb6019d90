"""`edge-assets build`: plan every (checkpoint, target), run what is stale, in this process."""

import logging
import shutil
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import dagster as dg
from rich.markup import escape

from edge_assets.core import isolation
from edge_assets.core.checkpoint import SUFFIXES
from edge_assets.defs.assets import checkpoint_partitions, known_to, partition_key
from edge_assets.defs.instance import add_partitions
from edge_assets.defs.jobs import family_job_name, scorecard_job_name
from edge_assets.defs.running import Worker, close_dead_runs
from edge_assets.errors import EdgeAssetsError, StoreError, UnknownName
from edge_assets.families.families import family_targets
from edge_assets.families.family import Family
from edge_assets.pipeline import scorecard
from edge_assets.pipeline.cell import REPORT, Cell
from edge_assets.pipeline.plan import Plan, plan
from edge_assets.settings import Home
from edge_assets.spec.model import ModelSpec
from edge_assets.spec.project import checkpoint_folder
from edge_assets.spec.source import source_digest
from edge_assets.targets import Target
from resources import checkpoints
from resources.checkpoints import Checkpoint
from resources.store import ArtifactStore

Say = Callable[[str], None]
INTERRUPTED = "DagsterExecutionInterruptedError"
WORK_FACTOR = 12  # free disk a build wants, in checkpoint sizes


@dataclass(frozen=True)
class Outcome:
    """What became of one cell: `built`, `fresh` or `failed`, and the failed asset's message.

    `failures` has the reason of every variant that failed; the others were judged without it.
    """

    cell: Cell
    status: str
    message: str = ""
    failures: Mapping[str, str] = field(default_factory=dict)


def choose_targets(spec: ModelSpec, names: Sequence[str]) -> list[tuple[Family, Target]]:
    """(family, target) pairs of a model, all or those named. Raises UnknownName with the nearest names."""
    every: dict[str, tuple[Family, Target]] = {}
    for family, targets in family_targets(spec):
        for target in targets:
            every[target.name] = (family, target)
    for name in names:
        if name not in every:
            raise UnknownName(f"target of {spec.name}", name, every)
    return [every[name] for name in (names or every)]


def choose_checkpoints(store: ArtifactStore, spec: ModelSpec, names: Sequence[str], say: Say) -> list[Checkpoint]:
    """Checkpoints by file path, by partition key, `all`, or by default the newest that fits the architecture.

    New files are registered.
    """
    folder = checkpoint_folder(spec)
    if names and "all" not in names:
        return [_checkpoint(store, spec, folder, name) for name in names]
    checkpoints.discover(store, spec.name, folder, say=lambda reason: say(f"[yellow]{escape(reason)}[/]"))
    known = checkpoints.registered(store, spec.name)
    if not known:
        raise EdgeAssetsError(f"no checkpoint of {spec.name} in {folder}")
    if names:
        return known
    return [_newest(store, spec)]


def _newest(store: ArtifactStore, spec: ModelSpec) -> Checkpoint:
    """The newest that fits. Raises EdgeAssetsError, with the reason of the last, if all that there are do not."""
    architecture = source_digest(spec.architecture)
    newest = checkpoints.newest(store, spec.name, architecture)
    if newest is None:
        reasons = list(checkpoints.unfit(store, spec.name, architecture).values())
        raise EdgeAssetsError(f"no checkpoint of {spec.name} can be built. The last: {reasons[-1]}")
    return newest


def _checkpoint(store: ArtifactStore, spec: ModelSpec, folder: str, name: str) -> Checkpoint:
    registered = store.pointers.names(f"checkpoints/{spec.name}")
    if name in registered:
        return checkpoints.lookup(store, spec.name, name)
    files, stems = {}, {}
    for file in checkpoints.list_files(folder):
        files[Path(file.url).name] = file.url
        stems[Path(file.url).stem] = file.url
    if name in files or name in stems or Path(name).suffix.lower() in SUFFIXES or Path(name).is_file():
        return checkpoints.register(store, spec.name, files.get(name) or stems.get(name) or name)
    raise UnknownName(f"checkpoint of {spec.name}", name, {*files, *registered})


def build(
    spec: ModelSpec,
    chosen: Sequence[Checkpoint],
    targets: Sequence[tuple[Family, Target]],
    mode: str,
    home: Home,
    store: ArtifactStore,
    instance: dg.DagsterInstance,
    say: Say,
) -> list[Outcome]:
    """Bring every chosen cell up to date, then the scorecards. Nothing to do launches no run."""
    store.workspaces.sweep()
    close_dead_runs(instance)
    _check_space(home, store, chosen)
    partitions = checkpoint_partitions(spec)
    add_partitions(instance, partitions.name or "", [checkpoint.key for checkpoint in chosen])
    outcomes: list[Outcome] = []
    materialized = known_to(instance)  # a run adds partitions of its own cell alone
    for checkpoint in chosen:
        changed = False
        for family, pairs in groupby(targets, key=itemgetter(0)):
            for _, target in pairs:
                cell = Cell(
                    spec=spec,
                    family=family,
                    target=target,
                    checkpoint=checkpoint,
                    store=store,
                    log=say,
                )
                planned = plan(cell, materialized, mode)
                outcome = _bring_up_to_date(planned, mode, instance, say)
                outcomes.append(outcome)
                changed |= outcome.status != "fresh"
            isolation.close()  # the next family has toolchains of its own: their memory would add up
        if changed:
            _run(scorecard_job_name(spec), checkpoint.key, {}, instance, listen=lambda _event: None)
    return outcomes


def _bring_up_to_date(planned: Plan, mode: str, instance: dg.DagsterInstance, say: Say) -> Outcome:
    cell = planned.cell
    title = f"{cell.checkpoint.key} on {cell.target.name}"
    if planned.is_fresh:
        say(f"[green]✓[/] {title}: up to date, nothing rebuilt, nothing measured again")
        scorecard.mark_reused(cell.store, cell.path)
        return Outcome(cell, "fresh")
    say(f"[bold]{title}[/]: {escape(planned.reason or '')}")
    config: dict[str, object] = {"ops": {_op_name(cell, REPORT): {"config": {"mode": mode}}}}
    job = family_job_name(cell.spec, cell.family)
    failure = _run(job, partition_key(cell), config, instance, listen=lambda event: _narrate(event, say))
    if failure:
        return Outcome(cell, "failed", failure)
    return Outcome(cell, "built", failures=_failed_variants(cell))


def _failed_variants(cell: Cell) -> dict[str, str]:
    """Reasons of a judged cell's failed variants, by name."""
    rows = scorecard.read(cell.store, cell.path)
    return {row["artifact"]: row["reason"] for row in rows if row["verdict"] == "failed"}


def _op_name(cell: Cell, artifact: str) -> str:
    return f"{cell.spec.name}__{cell.family.name}__{artifact}"


def _run(
    job: str,
    partition: str,
    config: dict[str, object],
    instance: dg.DagsterInstance,
    listen: Callable[[dg.EventLogEntry], None],
) -> str | None:
    """Execute a job's partition in this process. Returns the first failed asset's message, or None."""
    from edge_assets.definitions import defs

    run_id = str(uuid.uuid4())
    failures: list[str] = []
    interrupts: list[dg.DagsterEvent] = []

    def heard(entry: dg.EventLogEntry) -> None:
        event = entry.dagster_event
        if event and event.event_type == dg.DagsterEventType.STEP_FAILURE:
            failures.append(_message(event))
            if _is_interrupt(event):
                interrupts.append(event)
        listen(entry)

    instance.add_event_listener(run_id, heard)
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    with _terminable():
        result = defs.resolve_job_def(job).execute_in_process(
            run_config={**config, **quiet},
            instance=instance,
            partition_key=partition,
            run_id=run_id,
            raise_on_error=False,
            tags=Worker.current().tags(run_id),
        )
    if interrupts:  # Dagster made a failed step of it
        raise KeyboardInterrupt
    if result.success:
        return None
    if failures:
        return failures[0]
    return f"run {run_id} failed"


def _is_interrupt(event: dg.DagsterEvent) -> bool:
    """Whether a step failed because the command was interrupted."""
    error = event.step_failure_data.error
    while error is not None:
        if error.cls_name == INTERRUPTED:
            return True
        error = error.cause
    return False


def _message(event: dg.DagsterEvent) -> str:
    data = event.step_failure_data
    name = (event.step_key or "").replace("__", "/")
    if data.user_failure_data and data.user_failure_data.description:
        return f"{name}: {data.user_failure_data.description}"
    error = data.error
    if error is None:
        return f"{name}: failed"
    while error.cause:
        error = error.cause
    return f"{name}: {error.message.strip()}"


def _narrate(entry: dg.EventLogEntry, say: Say) -> None:
    """One line per asset and per progress message."""
    event = entry.dagster_event
    if event is None:
        if entry.user_message and not entry.user_message.startswith("Dependencies for step"):
            style = "yellow"
            if entry.level in (logging.DEBUG, logging.INFO):
                style = "dim"
            say(f"  [{style}]{escape(entry.user_message)}[/]")
    elif event.event_type == dg.DagsterEventType.ASSET_MATERIALIZATION:
        mark = "[green]✓[/]"
        if "failed" in event.materialization.metadata:
            mark = "[red]✗[/]"
        say(f"  {mark} {escape(_summary(event.materialization))}")
    elif event.event_type == dg.DagsterEventType.STEP_FAILURE and not _is_interrupt(event):  # which is said elsewhere
        say(f"  [red]✗ {escape(_message(event))}[/]")


def _summary(materialization: dg.AssetMaterialization) -> str:
    name = materialization.asset_key.path[-1]
    values = {key: entry.value for key, entry in materialization.metadata.items()}
    parts = ["reused" if values.get("reused") else "built"]
    for outcome in ("failed", "refused", "unavailable"):
        if values.get(outcome):
            return f"{name}: {outcome}: {values[outcome]}"
    size, accuracy, drop = values.get("size_bytes"), values.get("accuracy"), values.get("accuracy_drop_points")
    if isinstance(size, int):
        parts.append(f"{size / 1024:,.0f} KiB")
    if isinstance(accuracy, float):
        parts.append(f"accuracy {100 * accuracy:.2f} %")
    if isinstance(drop, float):
        parts.append(f"drop {drop:.2f} points")
    if values.get("winner"):
        parts.append(f"released {values['winner']}: {values['reason']}")
    return f"{name}: {', '.join(parts)}"


def _check_space(home: Home, store: ArtifactStore, chosen: Sequence[Checkpoint]) -> None:
    """Refuse to start where the state folder's disk, or the store's if it is a folder, is all but full."""
    needed = WORK_FACTOR * max(checkpoint.file.size for checkpoint in chosen)
    places = {"EDGE_ASSETS_HOME": home.root}
    if store.is_local:
        places["EDGE_ASSETS_STORE"] = Path(store.root.path)
    for variable, folder in places.items():
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(existing).free
        if free < needed:
            raise StoreError(
                f"no space left: {folder} has {free / 2**20:.0f} MiB free, a build of this model wants "
                f"{needed / 2**20:.0f} MiB. Free some, or set {variable} to another disk."
            )


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a build as Ctrl-C does, so that Dagster records it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda _signal, _frame: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
