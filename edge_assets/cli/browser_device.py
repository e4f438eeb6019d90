"""`edge-assets devices browser`: whatever opens the link is measured as a device of the browser family."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_assets.errors import EdgeAssetsError, UnknownName
from edge_assets.settings import home

if TYPE_CHECKING:
    from edge_assets.core.types import Built
    from edge_assets.devices.browser import Assignment, BrowserEvidence, BrowserVariant
    from edge_assets.devices.browser_lease import Described
    from edge_assets.pipeline.cell import Cell
    from edge_assets.spec.model import ModelSpec
    from edge_assets.targets import Target
    from resources.store import ArtifactStore

FAMILY = "browser"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, kw_only=True)
class BrowserRequest:
    """What the command line asks for: its options, by their names."""

    model: str | None
    checkpoint: str | None
    target: str | None
    variants: Sequence[str]
    provider: str | None
    threads: int | None
    samples: int | None
    mode: str
    host: str
    port: int
    certificate: Path | None
    key: Path | None
    lease: float


def measure_browser(request: BrowserRequest) -> None:
    """Serve the link, measure what opens it, print and keep the record."""
    from edge_assets.defs.resources import store_resource
    from edge_assets.devices.browser import measure, serve_browser_device
    from edge_assets.registry import registry

    certificate, key = request.certificate, request.key
    if (certificate is None) != (key is None):
        raise click.UsageError("give --certificate and --key, or neither")
    store = store_resource().open()
    cell = cell_of(store, registry().chosen(request.model), request.checkpoint, request.target)
    builts = built_variants(cell, request.variants)
    serving = serve_browser_device(
        bundle_of(cell),
        seconds=request.lease,
        log=click.echo,
        host=request.host,
        port=request.port,
        certificate=(certificate, key) if certificate and key else None,
    )
    with serving as device:
        click.echo(f"open this link, once, in the browser to be measured:\n\n  {device.link}\n")
        if request.host not in LOOPBACK and certificate is None:
            click.echo("plain HTTP: browsers give such a page one thread, a coarse clock and no WebGPU (--certificate)")
        described = device.wait()
        click.echo(f"{described.title}: {_in_words(described)}")
        measured = measured_target(cell, described, request.provider, is_demanded=request.target is not None)
        asked = assignment(
            cell,
            builts,
            described,
            provider=request.provider,
            threads=request.threads,
            samples=request.samples,
            mode=request.mode,
        )
        with _turn(request.host):
            found, remarks = measure(device, asked)
        evidence = evidence_of(cell, measured, described, asked, found, remarks)
        place = store_evidence(evidence)
    _print(evidence)
    click.echo(f"kept in {place}")
    if evidence.matches_target:
        model, checkpoint, target = evidence.model, evidence.checkpoint, evidence.target
        click.echo(f"into the scorecard: edge-assets build --model {model} --checkpoint {checkpoint} --target {target}")


@contextmanager
def _turn(host: str) -> Iterator[None]:
    """This machine's turn to measure, where the browser may be on it: two measurements would disturb each other."""
    from edge_assets.core.benchmark.turns import turn

    if host not in LOOPBACK:
        yield
        return
    with turn(lambda: click.echo("waiting for another measurement on this machine")):
        yield


def cell_of(store: "ArtifactStore", spec: "ModelSpec", checkpoint: str | None, target: str | None) -> "Cell":
    """The cell whose bundle is served. Raises EdgeAssetsError for a model without browser targets, UnknownName."""
    from edge_assets.cli.commands import newest_built
    from edge_assets.families.families import family_targets
    from edge_assets.pipeline.cell import Cell
    from resources import checkpoints as known

    named = {}
    for family, targets in family_targets(spec):
        if family.name == FAMILY:
            browsers = family
            named = {entry.name: entry for entry in targets}
    if not named:
        raise EdgeAssetsError(f"{spec.name} has no target of the family {FAMILY}: add browser-wasm to its targets")
    if target is not None and target not in named:
        raise UnknownName(f"browser target of {spec.name}", target, named)
    chosen = named[target or next(iter(named))]
    if checkpoint:
        found = known.lookup(store, spec.name, checkpoint)
    else:
        (found,) = newest_built(store, spec, count=1)
    return Cell(spec, browsers, chosen, found, store, log=click.echo)


def measured_target(
    cell: "Cell",
    described: "Described",
    provider: str | None,
    is_demanded: bool,
) -> "Target | None":
    """The model's target that a browser is; None where it has none for that engine.

    Raises EdgeAssetsError where the cell's target is demanded, and that browser is another.
    """
    from edge_assets.targets.project import target

    provider = provider or str(cell.target.options["execution_provider"])
    if is_demanded:
        if not _is(cell.target, described, provider):
            raise EdgeAssetsError(
                f"{described.title} (engine {described.engine}, {provider}) is not {cell.target.name}: "
                f"{cell.target.description}. Open the link in such a browser, or leave --target out"
            )
        return cell.target
    for name in cell.spec.targets:
        if _is(target(name), described, provider):
            return target(name)
    return None


def _is(target: "Target", described: "Described", provider: str) -> bool:
    """Whether a browser that computes so is that target."""
    if target.family != FAMILY or target.options["execution_provider"] != provider:
        return False
    return target.match.browser in (None, described.engine)


def built_variants(cell: "Cell", names: Sequence[str]) -> dict[str, "Built"]:
    """The variants in the bundle that were verified here, all or those named.

    Raises EdgeAssetsError where they were not built, UnknownName for a variant that is not among them.
    """
    from edge_assets.toolchains.web.bundle import DTYPES
    from resources.store import NotBuilt

    try:
        builts = cell.planning().build_all()
    except NotBuilt:
        raise EdgeAssetsError(f"{cell.path} is not up to date: {_command(cell)}") from None
    measurable: dict[str, Built] = {}
    for name in DTYPES:
        if name in builts and builts[name].verified is not None:
            measurable[name] = builts[name]
    for name in names:
        if name not in measurable:
            raise UnknownName(f"variant in the bundle of {cell.path}", name, measurable)
    return {name: built for name, built in measurable.items() if not names or name in names}


def bundle_of(cell: "Cell") -> Path:
    """The folder of the cell's bundle. Raises EdgeAssetsError where there is none."""
    artifact = cell.planning().build(str(cell.family.package)).artifact
    if artifact is None:
        raise EdgeAssetsError(f"{cell.path} has no bundle: {_command(cell)}")
    return cell.store.checkout(artifact)


def _command(cell: "Cell") -> str:
    return f"edge-assets build --model {cell.spec.name} --checkpoint {cell.checkpoint.key} --target {cell.target.name}"


def assignment(
    cell: "Cell",
    builts: "dict[str, Built]",
    described: "Described",
    provider: str | None,
    threads: int | None,
    samples: int | None,
    mode: str,
) -> "Assignment":
    """What is asked of a browser that is described so."""
    from edge_assets.core.benchmark.harness import Contestant
    from edge_assets.core.benchmark.statistics import MODES as KNOWN
    from edge_assets.devices.browser import Assignment
    from edge_assets.pipeline.measured import queried

    contestants, requests, precisions = {}, {}, {}
    for name, built in builts.items():
        assert built.artifact is not None
        loadable = cell.verification.loadable(built.runtime, built.build)
        contestants[name] = Contestant(name, built.artifact.sha256, loadable)
        requests[name] = cell.verification.request(loadable, samples, is_static="fixed_axes" in built.build.facts)
        precisions[name] = built.precision
    return Assignment(
        variants=contestants,
        precisions=precisions,
        outputs=tuple(tensor.name for tensor in cell.spec.outputs),
        execution_provider=provider or str(cell.target.options["execution_provider"]),
        threads=threads or min(cell.target.threads, described.threads),
        requests=requests,
        feeds=queried(cell.data, cell.target.batch_sizes),
        mode=KNOWN[mode],
        batch_sizes=cell.target.batch_sizes,
    )


def evidence_of(
    cell: "Cell",
    measured: "Target | None",
    described: "Described",
    asked: "Assignment",
    found: "dict[str, BrowserVariant]",
    remarks: Sequence[str],
) -> "BrowserEvidence":
    """The record of a measurement."""
    from edge_assets.devices.browser import BrowserEvidence
    from edge_assets.pipeline.measured import now

    return BrowserEvidence(
        model=cell.spec.name,
        family=cell.family.name,
        checkpoint=cell.checkpoint.key,
        target=measured.name if measured else cell.target.name,
        matches_target=measured is not None,
        browser=described.title,
        engine=described.engine,
        described=described,
        execution_provider=asked.execution_provider,
        mode=asked.mode.name,
        evaluated_samples=max(request.every for request in asked.requests.values()),
        measured_at=now(),
        remarks=tuple(remarks),
        variants=found,
    )


def store_evidence(evidence: "BrowserEvidence") -> Path:
    """Write the record into the state folder, where nothing is overwritten. Its file."""
    from edge_assets.core.shapes import record

    folder = home().root / "devices" / "browser"
    folder.mkdir(parents=True, exist_ok=True)
    stamp = evidence.measured_at.replace(":", "")
    name = f"{evidence.model}-{evidence.checkpoint}-{evidence.target}-{stamp}"
    number = 1
    while True:
        place = folder / (f"{name}.json" if number == 1 else f"{name}-{number}.json")
        try:
            with place.open("x") as file:
                json.dump(record(evidence), file, indent=1)
                file.write("\n")
        except FileExistsError:
            number += 1
        else:
            return place


def _in_words(described: "Described") -> str:
    isolated = "cross-origin isolated" if described.is_isolated else "not cross-origin isolated"
    adapter = "no WebGPU"
    if described.adapter:
        kind = "software" if described.adapter.is_software else "GPU"
        adapter = f"WebGPU on {described.adapter.name} ({kind})"
    return f"engine {described.engine}, {described.threads} threads, {isolated}, {adapter}"


def _print(evidence: "BrowserEvidence") -> None:
    from rich.markup import escape
    from rich.table import Table

    from edge_assets.report.console import console

    place = console()
    title = f"{evidence.checkpoint} in {evidence.browser}: {evidence.execution_provider}, tier {evidence.tier}"
    table = Table(title=escape(title), title_justify="left")
    table.add_column("variant", no_wrap=True)
    for name in ("SNR dB", "accuracy", "drop points", "P50 ms", "P90 ms", "load ms"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("remark", overflow="fold")
    for name, variant in evidence.variants.items():
        table.add_row(name, *_cells(variant), escape(variant.refused or variant.not_timed or ""))
    place.print(table)
    if not evidence.matches_target:
        place.print(
            f"! no target of {evidence.model} is such a browser: these numbers are its own alone",
            style="yellow",
            markup=False,
        )
    place.print(f"accuracy of {evidence.evaluated_samples} samples; mode {evidence.mode}")
    for remark in evidence.remarks:
        place.print(f"! {remark}", style="yellow", markup=False)


def _cells(variant: "BrowserVariant") -> list[str]:
    """The numbers of a variant, as far as there are any."""
    snr = accuracy = drop = p50 = p90 = load = None
    if variant.verified is not None:
        snr = variant.verified.parity.snr_db
        accuracy = variant.verified.accuracy.value
        drop = variant.verified.accuracy.drop_points
    if variant.latency_ms is not None:
        p50, p90 = variant.latency_ms["1"].p50, variant.latency_ms["1"].p90
    if variant.loaded is not None:
        load = variant.loaded.session_ms
    return [
        _number(snr, "{:.1f}"),
        _number(accuracy, "{:.4f}"),
        _number(drop, "{:.2f}"),
        _number(p50, "{:.3f}"),
        _number(p90, "{:.3f}"),
        _number(load, "{:.0f}"),
    ]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
