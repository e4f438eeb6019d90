"""`edge-assets build`: plan every (checkpoint, target), build what is stale, several at once, and measure alone."""

import logging
import shutil
import signal
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import dagster as dg
from rich.markup import escape

from edge_assets.addresses import without_credentials
from edge_assets.cli.interruptions import never_dropped
from edge_assets.cli.progress import Display, Estimate
from edge_assets.cli.workers import Event, Finished, Result, Said, Work, at_once, worker_count
from edge_assets.core import isolation, log_filters
from edge_assets.core.checkpoint import SUFFIXES
from edge_assets.core.variant import CHECKPOINT
from edge_assets.defs.assets import checkpoint_partitions, known_to, partition_key
from edge_assets.defs.instance import add_partitions, open_instance
from edge_assets.defs.jobs import family_job_name, scorecard_job_name
from edge_assets.defs.location import model_definitions
from edge_assets.defs.running import Worker, close_dead_runs
from edge_assets.errors import EdgeAssetsError, StoreError, UnknownName
from edge_assets.families.families import family_targets
from edge_assets.families.family import Family
from edge_assets.pipeline import rows
from edge_assets.pipeline.cell import RELEASE, REPORT, Cell
from edge_assets.pipeline.plan import Plan, plan
from edge_assets.settings import Home, home
from edge_assets.spec.architecture import fitting_digest
from edge_assets.spec.model import ModelSpec
from edge_assets.spec.project import checkpoint_folder
from edge_assets.targets import Target, local_target, this_machine
from edge_assets.targets.project import catalog
from resources import checkpoints
from resources.checkpoints import Checkpoint
from resources.inspection import is_local
from resources.store import ArtifactStore

Say = Callable[[str], None]
Hear = Callable[[Event], None]
INTERRUPTED = "DagsterExecutionInterruptedError"
THIS_CPU = "this-cpu"
PREPARED = "prepared"  # of a cell whose variants are built and verified, and not measured yet
LAST_STEPS = (REPORT, RELEASE)
EARLIER_RUNS = 3  # of each family, to estimate the time from
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


@dataclass(frozen=True)
class Here:
    """What a process builds with: the model's definitions, the Dagster instance, and how long to measure."""

    location: dg.Definitions
    instance: dg.DagsterInstance
    mode: str


def choose_targets(spec: ModelSpec, names: Sequence[str]) -> list[tuple[Family, Target]]:
    """(family, target) pairs of a model, all or those named; `this-cpu` is the CPU target that this machine is.

    Raises UnknownName with the nearest names, and EdgeAssetsError if this machine is none of the model's CPU targets.
    """
    every: dict[str, tuple[Family, Target]] = {}
    for family, targets in family_targets(spec):
        for target in targets:
            every[target.name] = (family, target)
    chosen = [_this_cpu(spec, every) if name == THIS_CPU else name for name in names]
    for name in chosen:
        if name not in every:
            raise UnknownName(f"target of {spec.name}", name, [*every, THIS_CPU])
    return [every[name] for name in (dict.fromkeys(chosen) or every)]


def _this_cpu(spec: ModelSpec, every: Iterable[str]) -> str:
    local = local_target(catalog().values(), "cpu")
    if local is not None and local.name in every:
        return local.name
    known = ", ".join(name for name in every if catalog()[name].family == "cpu") or "none"
    raise EdgeAssetsError(
        f"this machine ({this_machine().cpu}) is none of the CPU targets of {spec.name} ({known}): name one of them"
    )


def choose_checkpoints(store: ArtifactStore, spec: ModelSpec, names: Sequence[str], say: Say) -> list[Checkpoint]:
    """Checkpoints by file path, by partition key, `all`, or by default the newest that fits the architecture.

    New files are registered. `say` is told of those that are left out, and of those that are copies of others.
    """
    folder = checkpoint_folder(spec)
    if names and "all" not in names:
        return [_checkpoint(store, spec, folder, name, say) for name in names]
    remarks: list[str] = []
    checkpoints.discover(store, spec.name, folder, say=remarks.append)
    known = checkpoints.registered(store, spec.name)
    if not known:
        what_to_do = "; ".join(remarks) or _what_to_do(folder)
        raise EdgeAssetsError(f"no checkpoint of {spec.name} in {without_credentials(folder)}: {what_to_do}")
    for remark in remarks:
        say(remark)
    if names:
        return known
    return [_newest(store, spec)]


def _what_to_do(folder: str) -> str:
    """Where a checkpoint folder has nothing that can be built."""
    if is_local(folder) and not Path(folder).is_dir():
        return (
            "there is no such folder. Save the trained state dict there, or name another folder in the spec's "
            "`checkpoints` (a relative one is below pyproject.toml)"
        )
    odd = checkpoints.scan(folder).odd
    if odd:
        name, reason = next(iter(odd.items()))
        return f"{name} {reason}"
    return (
        f"save the trained state dict there as one of {', '.join(SUFFIXES)}, or build a file from elsewhere with "
        f"--checkpoint FILE"
    )


def _newest(store: ArtifactStore, spec: ModelSpec) -> Checkpoint:
    """The newest that fits. Raises EdgeAssetsError, with the reason of the last, if all that there are do not."""
    architecture = fitting_digest(spec)
    newest = checkpoints.newest(store, spec.name, architecture)
    if newest is None:
        reasons = list(checkpoints.unfit(store, spec.name, architecture).values())
        raise EdgeAssetsError(f"no checkpoint of {spec.name} can be built. The last: {reasons[-1]}")
    return newest


def _checkpoint(store: ArtifactStore, spec: ModelSpec, folder: str, name: str, say: Say) -> Checkpoint:
    registered = store.pointers.names(f"checkpoints/{spec.name}")
    if name in registered:
        return checkpoints.lookup(store, spec.name, name)
    file = checkpoints.file_named(folder, name)
    if file or Path(name).suffix.lower() in SUFFIXES or Path(name).is_file():
        checkpoint = checkpoints.register(store, spec.name, file.url if file else name)
        called = file.name if file else Path(name).name
        if not checkpoint.is_called(called):
            say(checkpoints.said_of_a_copy(called, checkpoint))
        return checkpoint
    try:
        return checkpoints.find(store, spec.name, name)
    except UnknownName:
        files = [file.name for file in checkpoints.list_files(folder)]
        raise UnknownName(f"checkpoint of {spec.name}", name, {*files, *registered}) from None


def registered_checkpoint(store: ArtifactStore, spec: ModelSpec, name: str, say: Say) -> Checkpoint:
    """The registered checkpoint that a person names, by the name of a copy of its file too, of which `say` is told.

    Raises as `checkpoints.find`.
    """
    try:
        return checkpoints.find(store, spec.name, name)
    except UnknownName:
        file = checkpoints.file_named(checkpoint_folder(spec), name)
        if file is None:
            raise
        checkpoint = checkpoints.of_content(store, spec.name, file.url)
        if checkpoint is None:
            command = f"edge-assets build --model {spec.name} --checkpoint {file.name}"
            raise EdgeAssetsError(f"{file.name} was not built yet: {command}") from None
    say(checkpoints.said_of_a_copy(file.name, checkpoint))
    return checkpoint


def build(
    spec: ModelSpec,
    chosen: Sequence[Checkpoint],
    targets: Sequence[tuple[Family, Target]],
    mode: str,
    settings: Home,
    store: ArtifactStore,
    instance: dg.DagsterInstance,
    display: Display,
    jobs: int | None = None,
) -> list[Outcome]:
    """Bring every chosen cell up to date, then the scorecards. Nothing to do launches no run.

    Cells that are timed here are measured last and alone: nothing else of this command works meanwhile. `jobs` is how
    many families are built at once before; None: as many as the machine carries.
    """
    store.workspaces.sweep()
    close_dead_runs(instance)
    _check_space(settings, store, chosen)
    partitions = checkpoint_partitions(spec)
    add_partitions(instance, partitions.name or "", [checkpoint.key for checkpoint in chosen])
    # not all that Dagster loads: what is wrong with another model is of no concern
    here = Here(model_definitions(spec), instance, mode)
    materialized = known_to(instance)  # a run adds partitions of its own cell alone
    outcomes, stale = [], []
    for checkpoint in chosen:
        for family, target in targets:
            cell = Cell(
                spec=spec,
                family=family,
                target=target,
                checkpoint=checkpoint,
                store=store,
                log=display.say,
            )
            planned = plan(cell, materialized, mode)
            if planned.is_fresh:
                outcomes.append(_fresh(planned, display.say))
            else:
                stale.append(planned)
    with _terminable():
        outcomes += _bring_all_up_to_date(stale, here, display, jobs)
        for checkpoint in chosen:
            if any(outcome.status != "fresh" and outcome.cell.checkpoint == checkpoint for outcome in outcomes):
                _execute(here, scorecard_job_name(spec), checkpoint.key, {}, lambda _event: None)
    return outcomes


def _fresh(planned: Plan, say: Say) -> Outcome:
    cell = planned.cell
    say(f"[green]✓[/] {_title(cell)}: up to date, nothing rebuilt, nothing measured again")
    rows.mark_reused(cell.store, cell.path)
    return Outcome(cell, "fresh")


def _title(cell: Cell) -> str:
    return f"{cell.checkpoint.key} on {cell.target.name}"


def _bring_all_up_to_date(stale: Sequence[Plan], here: Here, display: Display, jobs: int | None) -> list[Outcome]:
    """First all that is not timed, by family and several families at once; then what is, alone."""
    families = [list(group) for _key, group in groupby(stale, key=_family_of)]
    workers = min(jobs or worker_count(), len(families))
    waiting = [(planned.cell.family.name, asset) for planned in stale for asset in planned.cell.artifacts]
    estimate = Estimate(waiting, at_once=workers, earlier=_earlier_seconds(stale, here.instance))
    with display.over(estimate):
        done: dict[str, Outcome] = {}
        if workers > 1:
            done = _several_at_once(families, workers, here, display)
        estimate.at_once = 1
        for _key, group in groupby(sorted(stale, key=_is_timed), key=_family_of):
            for planned in group:
                before = done.get(planned.cell.path)
                if before is None:
                    done[planned.cell.path] = _bring_up_to_date(planned, here, display.hear)
                elif before.status == PREPARED:
                    done[planned.cell.path] = _bring_up_to_date(planned, here, display.hear, LAST_STEPS)
            isolation.close()  # the next family has toolchains of its own: their memory would add up
    return [done[planned.cell.path] for planned in stale]


def _is_timed(planned: Plan) -> bool:
    return planned.cell.is_local


def _family_of(planned: Plan) -> tuple[str, str]:
    return planned.cell.checkpoint.key, planned.cell.family.name


def _several_at_once(
    families: Sequence[Sequence[Plan]],
    workers: int,
    here: Here,
    display: Display,
) -> dict[str, Outcome]:
    """Each family in a worker process. Outcomes by the cell's path; without those of a worker that died."""
    works = {}
    for plans in families:
        cell = plans[0].cell
        names = tuple(planned.cell.target.name for planned in plans)
        work = Work(
            model=cell.spec.name,
            checkpoint=cell.checkpoint.key,
            family=cell.family.name,
            targets=names,
            mode=here.mode,
            timed=tuple(planned.cell.target.name for planned in plans if _is_timed(planned)),
        )
        works[work] = plans
    outcomes: dict[str, Outcome] = {}
    try:
        for work, results in at_once(list(works), build_in_worker, workers, display.hear):
            cells = {planned.cell.target.name: planned.cell for planned in works.pop(work)}
            for result in results:
                cell = cells[result.target]
                outcomes[cell.path] = Outcome(cell, result.status, result.message, failures=result.failures)
    except BrokenProcessPool:
        display.say("[yellow]a process that was building died; what is left is built one after the other[/]")
    return outcomes


def build_in_worker(work: Work, hear: Hear) -> list[Result]:
    """Bring one family's targets up to date, in a process of its own."""
    from edge_assets.defs.resources import store_resource
    from edge_assets.registry import registry

    spec = registry().model(work.model)
    store = store_resource().open()
    checkpoint = checkpoints.lookup(store, spec.name, work.checkpoint)
    results = []
    with _terminable(), open_instance(home()) as instance:
        here = Here(model_definitions(spec), instance, work.mode)
        materialized = known_to(instance)
        for family, target in choose_targets(spec, work.targets):
            cell = Cell(
                spec=spec,
                family=family,
                target=target,
                checkpoint=checkpoint,
                store=store,
                log=partial(_hear_said, hear, target.name),
            )
            artifacts = cell.artifacts
            if target.name in work.timed:
                artifacts = [name for name in artifacts if name not in LAST_STEPS]
            outcome = _bring_up_to_date(plan(cell, materialized, work.mode), here, hear, artifacts)
            result = Result(
                target=target.name,
                status=outcome.status,
                message=outcome.message,
                failures=dict(outcome.failures),
            )
            results.append(result)
    isolation.close()
    return results


def _hear_said(hear: Hear, target: str, line: str) -> None:
    hear(Said(line, target))


def _bring_up_to_date(planned: Plan, here: Here, hear: Hear, artifacts: Sequence[str] | None = None) -> Outcome:
    """Make a cell's artifacts, all or those of these names, whose sources are made already."""
    cell = planned.cell
    if planned.is_fresh:  # another command was faster
        return Outcome(cell, "fresh")
    chosen = artifacts or cell.artifacts
    reason = planned.reason or ""
    if REPORT not in chosen:
        reason += "; measured last"
    if CHECKPOINT not in chosen:
        reason = "to be measured, with nothing else at work"
    hear(Said(f"[bold]{_title(cell)}[/]: {escape(reason)}", cell.target.name))
    failure = _run(here, cell, chosen, lambda entry: _narrate(entry, cell, hear))
    if failure:
        return Outcome(cell, "failed", failure)
    if REPORT not in chosen:
        return Outcome(cell, PREPARED)
    return Outcome(cell, "built", failures=_failed_variants(cell))


def _failed_variants(cell: Cell) -> dict[str, str]:
    """Reasons of a judged cell's failed variants, by name."""
    kept = rows.read(cell.store, cell.path)
    return {row.artifact: row.reason for row in kept if row.verdict == "failed"}


def _earlier_seconds(stale: Sequence[Plan], instance: dg.DagsterInstance) -> dict[tuple[str, str], float]:
    """What each family's assets took in the last few runs that succeeded, the longest of each."""
    longest: dict[tuple[str, str], float] = {}
    families = {planned.cell.family.name: planned.cell for planned in stale}
    for name, cell in families.items():
        job = family_job_name(cell.spec, cell.family)
        filters = dg.RunsFilter(job_name=job, statuses=[dg.DagsterRunStatus.SUCCESS])
        for run in instance.get_runs(filters, limit=EARLIER_RUNS):
            for step in instance.get_run_step_stats(run.run_id):
                if step.end_time is None or step.start_time is None:
                    continue
                key = (name, step.step_key.rpartition("__")[2])
                longest[key] = max(step.end_time - step.start_time, longest.get(key, 0.0))
    return longest


def _run(here: Here, cell: Cell, artifacts: Sequence[str], listen: Callable[[Any], None]) -> str | None:
    """Materialize a cell's artifacts in this process. Returns the first failed asset's message, or None."""
    job = family_job_name(cell.spec, cell.family)
    config: Mapping[str, object] = {}
    if REPORT in artifacts:
        operation = "__".join(cell.asset(REPORT))
        config = {"ops": {operation: {"config": {"mode": here.mode}}}}
    keys = [dg.AssetKey(cell.asset(name)) for name in artifacts]
    return _execute(here, job, partition_key(cell), config, listen, keys)


def _execute(
    here: Here,
    job: str,
    partition: str,
    config: Mapping[str, object],
    listen: Callable[[Any], None],
    keys: Sequence[dg.AssetKey] | None = None,
) -> str | None:
    """Execute a job's partition in this process, all its assets or those of `keys`. Returns as `_run`."""
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

    here.instance.add_event_listener(run_id, heard)
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    try:
        result = here.location.resolve_job_def(job).execute_in_process(
            run_config={**config, **quiet},
            instance=here.instance,
            partition_key=partition,
            asset_selection=keys,
            run_id=run_id,
            raise_on_error=False,
            tags=Worker.current().tags(run_id),
        )
    except KeyboardInterrupt:
        _cancel_unfinished(here.instance, run_id)
        raise
    if interrupts:  # Dagster made a failed step of it
        raise KeyboardInterrupt
    if result.success:
        return None
    if failures:
        return failures[0]
    return f"run {run_id} failed"


def _cancel_unfinished(instance: dg.DagsterInstance, run_id: str) -> None:
    """For an interruption before Dagster watches for one, which would leave the run as not started for ever."""
    run = instance.get_run_by_id(run_id)
    if run is not None and not run.is_finished:
        instance.report_run_canceled(run, "interrupted before its first step")


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


def _narrate(entry: dg.EventLogEntry, cell: Cell, hear: Hear) -> None:
    """One line per asset and per progress message, and what an asset took."""
    event = entry.dagster_event
    target = cell.target.name
    if event is None:
        if entry.user_message and not entry.user_message.startswith("Dependencies for step"):
            style = "dim" if entry.level in (logging.DEBUG, logging.INFO) else "yellow"
            hear(Said(f"  [{style}]{escape(entry.user_message)}[/]", target))
    elif event.event_type == dg.DagsterEventType.ASSET_MATERIALIZATION:
        hear(Said(f"  {_mark(event.materialization)} {escape(_summary(event.materialization))}", target))
    elif event.event_type == dg.DagsterEventType.STEP_SUCCESS:
        asset = (event.step_key or "").rpartition("__")[2]
        hear(Finished(cell.family.name, asset, event.step_success_data.duration_ms / 1000))
    elif event.event_type == dg.DagsterEventType.STEP_FAILURE and not _is_interrupt(event):  # which is said elsewhere
        hear(Said(f"  [red]✗ {escape(_message(event))}[/]", target))


OUTCOMES = {  # of a variant that no gate is asked of, and how it is marked
    "failed": "[red]✗[/]",
    "refused": "[yellow]-[/]",
    "unavailable": "[yellow]-[/]",
    "unverified": "[yellow]?[/]",
}


def _mark(materialization: dg.AssetMaterialization) -> str:
    for outcome, mark in OUTCOMES.items():
        if outcome in materialization.metadata:
            return mark
    return "[green]✓[/]"


def _summary(materialization: dg.AssetMaterialization) -> str:
    name = materialization.asset_key.path[-1]
    values = {key: entry.value for key, entry in materialization.metadata.items()}
    parts = ["reused" if values.get("reused") else "built"]
    for outcome in OUTCOMES:
        if values.get(outcome):
            return f"{name}: {outcome}: {values[outcome]}"
    if values.get("winner"):
        return f"{name}: {parts[0]}, released {values['winner']}: {values['reason']}"
    # by the names of defs/tables.NUMBERS
    size, accuracy, drop = values.get("size_kib"), values.get("accuracy"), values.get("drop_points")
    if isinstance(size, float):
        parts.append(f"{size:,.0f} KiB")
    metric, is_share = values.get("metric", "accuracy"), "unit" not in values
    if isinstance(accuracy, float):
        parts.append(f"{metric} {100 * accuracy:.2f} %" if is_share else f"{metric} {accuracy:.4g}")
    if isinstance(drop, float):
        parts.append(f"drop {drop:.2f} points" if is_share else f"worse by {drop / 100:.4g}")
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
    log_filters.silence_interruptions()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda _signal, _frame: signal.raise_signal(signal.SIGINT))
    # a script's background start leaves SIGINT ignored, and Dagster's page ends a run by it
    ctrl_c = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with never_dropped():
            yield
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, ctrl_c)
