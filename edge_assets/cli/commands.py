"""The commands: thin over the same assets and the same Dagster instance, and quick to import."""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from functools import wraps
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import click

from edge_assets.addresses import without_credentials
from edge_assets.core import failures, garbage
from edge_assets.errors import EdgeAssetsError
from edge_assets.settings import home

if TYPE_CHECKING:
    from edge_assets.spec.model import ModelSpec
    from resources.checkpoints import Checkpoint
    from resources.store import ArtifactStore

P = ParamSpec("P")
MODES = ("rapid", "quick", "release")


def clear_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Every error as one message on stderr and exit code 1, a log with the rest where it is not the user's to fix.

    Ctrl-C is exit code 130.
    """

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (click.exceptions.Exit, click.ClickException):
            raise
        except Exception as error:
            message = failures.report(error, home().cache / failures.FOLDER, f"edge-assets {command.__name__}")
            click.secho(f"error: {message}", fg="red", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.secho("interrupted: what was finished is kept; the same command goes on from there", err=True)
            sys.exit(130)

    return wrapped


def warn(message: str) -> None:
    """Something that the user should know, and that stops nothing."""
    click.secho(message, fg="yellow", err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edge-assets")
def main() -> None:
    """From a PyTorch checkpoint to verified, measured and released edge artifacts."""
    garbage.look_less_often()
    os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


@main.command()
@click.argument("name")
@clear_errors
def init(name: str) -> None:
    """Make a project in the new folder NAME: a small trained network that builds at once, to be made into your own."""
    from edge_assets.cli.init import create

    folder = create(name, Path.cwd())
    click.echo(f"{folder.name}/ is made, with a network, data, a spec and a trained checkpoint. Next:")
    click.echo(f"  cd {folder.name}")
    click.echo("  edge-assets build")


@main.command()
@click.option("--model", help="A registered model. Default: the only one there is.")
@click.option(
    "--checkpoint", "checkpoints", multiple=True, help="Key, how that begins, file, or 'all'. Default: the newest."
)
@click.option("--target", "targets", multiple=True, help="A target of the model, or this-cpu. Default: all.")
@click.option("--mode", type=click.Choice(MODES), default="rapid", show_default=True, help="How long to measure.")
@click.option("--jobs", type=click.IntRange(min=1), help="Families built at once. Default: what the machine carries.")
@click.option("--quiet", is_flag=True, help="No progress, only the result.")
@click.option("--strict", is_flag=True, help="Exit with 1 if any variant failed, not only if a target did.")
@clear_errors
def build(
    model: str | None,
    checkpoints: tuple[str, ...],
    targets: tuple[str, ...],
    mode: str,
    jobs: int | None,
    quiet: bool,
    strict: bool,
) -> None:
    """Build, verify, measure and release what is not up to date. Exits with 1 if a target has nothing to release."""
    from rich.console import Console

    from edge_assets.cli import build as building
    from edge_assets.cli.progress import Display
    from edge_assets.defs.instance import open_instance, prepare
    from edge_assets.defs.resources import store_resource, tracking_resource
    from edge_assets.devices.inventory import devices
    from edge_assets.registry import registry

    console = Console(highlight=False, soft_wrap=True)
    display = Display(console, quiet)
    spec = registry().chosen(model)
    chosen_targets = building.choose_targets(spec, targets)
    for problem in devices().broken.values():
        warn(f"a device is left out, because its entry is wrong: {problem}")
    prepare(home(), warn)  # before the store is: it lies in the state folder
    resource = store_resource()
    store = resource.open()
    chosen = building.choose_checkpoints(store, spec, checkpoints, warn)
    with open_instance(home()) as instance:
        outcomes = building.build(
            spec=spec,
            chosen=chosen,
            targets=chosen_targets,
            mode=mode,
            settings=home(),
            store=store,
            instance=instance,
            display=display,
            jobs=jobs,
        )
    tracking = tracking_resource(resource)
    tracking.flush(lambda message: console.print(f"[yellow]{message}[/]"))
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    counts = Counter(outcome.status for outcome in outcomes)
    console.print(f"{counts['built']} built, {counts['fresh']} up to date, {counts['failed']} failed")
    for outcome in outcomes:
        for variant, reason in outcome.failures.items():
            click.secho(f"failed variant: {outcome.cell.target.name}: {variant}: {reason}", fg="yellow", err=True)
    for outcome in failed:
        click.secho(f"error: {outcome.cell.target.name}: {outcome.message}", fg="red", err=True)
    if failed or (strict and any(outcome.failures for outcome in outcomes)):
        sys.exit(1)


@main.command()
@click.option("--model", help="A registered model. Default: the only one there is.")
@click.option("--checkpoint", help="Its key, how that begins, or its file. Default: the newest built.")
@click.option("--target", "targets", multiple=True, help="Every variant on this target. Default: what ships on each.")
@click.option("--json", "as_json", is_flag=True, help="All rows as JSON.")
@clear_errors
def scorecard(model: str | None, checkpoint: str | None, targets: tuple[str, ...], as_json: bool) -> None:
    """What ships on each target, how good it is, and how that is known."""
    from edge_assets.cli import emulators
    from edge_assets.cli.build import choose_targets, registered_checkpoint
    from edge_assets.core.shapes import written
    from edge_assets.defs.resources import store_resource
    from edge_assets.pipeline import rows as kept
    from edge_assets.registry import registry
    from edge_assets.report import terminal

    spec = registry().chosen(model)
    store = store_resource().open()
    if checkpoint:
        key = registered_checkpoint(store, spec, checkpoint, warn).key
    else:
        (newest,) = newest_built(store, spec, count=1)
        key = newest.key
    rows = kept.demanded(store, spec, key)
    if targets:
        names = {target.name for _family, target in choose_targets(spec, targets)}
        rows = [row for row in rows if row.target in names]
    if as_json:
        click.echo(json.dumps(written(rows), indent=1, sort_keys=True))
    elif targets:
        terminal.print_rows(key, rows)
    else:
        terminal.print_winners(key, rows)
        hint = emulators.hint(row.target for row in rows)
        if hint:
            click.echo(hint)


@main.command()
@click.argument("checkpoints", nargs=-1, metavar="[BEFORE AFTER]")
@click.option("--model", help="A registered model. Default: the only one there is.")
@click.option("--page", type=click.Path(dir_okay=False), help="Where the page is written. Default: in comparisons/.")
@clear_errors
def compare(checkpoints: tuple[str, ...], model: str | None, page: str | None) -> None:
    """Two checkpoints side by side, by keys or files. Default: the newest that was built, and the one before it.

    Exits with 1 if the newer one is a regression: nothing ships any more, or accuracy fell beyond the gate.
    """
    from edge_assets.cli.build import registered_checkpoint
    from edge_assets.defs.resources import store_resource
    from edge_assets.pipeline.comparison import between
    from edge_assets.registry import registry
    from edge_assets.report.page import write_comparison
    from edge_assets.report.terminal import print_comparison

    if len(checkpoints) not in (0, 2):
        raise click.UsageError("give both checkpoints, or neither")
    spec = registry().chosen(model)
    store = store_resource().open()
    if checkpoints:
        before, after = (registered_checkpoint(store, spec, name, warn) for name in checkpoints)
    else:
        before, after = newest_built(store, spec, count=2)
    found = between(store, spec, before, after)
    print_comparison(found)
    path = Path(page) if page else home().comparison(spec.name, before.key, after.key)
    write_comparison(path, spec, found)
    click.echo(f"page: {path}")
    if found.regressions:
        sys.exit(1)


def newest_built(store: "ArtifactStore", spec: "ModelSpec", count: int) -> list["Checkpoint"]:
    """The newest `count` checkpoints of a model that were built, oldest first.

    Raises EdgeAssetsError where fewer were.
    """
    from edge_assets.pipeline import rows as kept

    command = f"edge-assets build --model {spec.name}"
    newest = list(islice(kept.judged(store, spec), count))
    if not newest:
        place = without_credentials(home().store)
        raise EdgeAssetsError(f"nothing of {spec.name} was built yet, as far as {place} knows: {command}")
    if len(newest) < count:
        raise EdgeAssetsError(
            f"{newest[0].key} is the only checkpoint of {spec.name} that was built yet: {command} --checkpoint ..."
        )
    return newest[::-1]


@main.command()
@clear_errors
def doctor() -> None:
    """Toolchains, versions, devices, models; what is missing, and which extra installs it."""
    from edge_assets.cli.doctor import examine

    if not examine():
        sys.exit(1)


@main.command()
@clear_errors
def schema() -> None:
    """The JSON schema of files with targets, for editors that complete and check them."""
    from edge_assets.families.families import FAMILIES
    from edge_assets.targets.catalog import json_schema

    click.echo(json.dumps(json_schema(FAMILIES), indent=1))


UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}  # in seconds


def duration(_context: click.Context, _option: click.Parameter, value: str) -> float:
    """A time such as 30d, 12h, 90m or 45s, in seconds. Raises BadParameter."""
    number, unit = value[:-1], value[-1:]
    if unit not in UNITS or not number.isascii() or not number.isdigit():
        raise click.BadParameter(f"'{value}' is no time: give a whole number and d, h, m or s, such as 30d")
    return int(number) * UNITS[unit]


@main.group(name="devices", invoke_without_command=True)
@click.pass_context
@clear_errors
def devices_group(context: click.Context) -> None:
    """The project's devices, with their state; without a command they are listed."""
    if context.invoked_subcommand is None:
        from edge_assets.cli.devices import print_devices

        if not print_devices():
            raise SystemExit(1)


@devices_group.command("check")
@click.argument("name")
@clear_errors
def check_device(name: str) -> None:
    """Try the whole way to the device NAME: reach, recognise, send, lease."""
    from edge_assets.cli.devices import check_device as check

    check(name)


@devices_group.command("browser")
@click.option("--model", help="A registered model. Default: the only one there is.")
@click.option("--checkpoint", help="Partition of the checkpoint. Default: the newest that was built.")
@click.option("--target", help="The target that is measured. Default: the model's for whatever browser opens the link.")
@click.option("--variant", "variants", multiple=True, help="A variant of the bundle. Default: all that were verified.")
@click.option("--provider", type=click.Choice(("wasm", "webgpu")), help="What computes. Default: the target's.")
@click.option("--threads", type=click.IntRange(1, 64), help="Of wasm. Default: the target's.")
@click.option("--samples", type=click.IntRange(min=8), help="Evaluate the first so many samples. Default: all.")
@click.option("--mode", type=click.Choice(MODES), default="rapid", show_default=True, help="How long to measure.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to serve on; 0.0.0.0: the network.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The port to serve on. Default: a free one.")
@click.option("--certificate", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="PEM, for HTTPS.")
@click.option("--key", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The certificate's key.")
@click.option(
    "--lease",
    callback=duration,
    metavar="DURATION",
    default="30m",
    show_default=True,
    help="How long the link works, and the measurement may take.",
)
@clear_errors
def browser_device(**options: Any) -> None:
    """Measure the browser that opens the link: a phone, a tablet, Firefox, Safari.

    Parity, accuracy and latency of what was built, with the statistics of this machine. The link works once.
    """
    from edge_assets.cli.browser_device import BrowserRequest, measure_browser

    measure_browser(BrowserRequest(**options))


@main.group()
def emulator() -> None:
    """CPUs that are emulated, to check on their arithmetic what runs on hardware that is not at hand."""


@emulator.command("install")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@clear_errors
def install_emulators(names: tuple[str, ...]) -> None:
    """Install emulated CPUs, all by default, from Debian's packages and the package index. Needs no root."""
    from edge_assets.devices.installing import install

    done = install(names, click.echo)
    if done:
        click.echo(f"installed: {', '.join(done)}")


@emulator.command("list")
@clear_errors
def list_emulators() -> None:
    """Which CPUs can be emulated, which of them are installed, and what that takes."""
    from edge_assets.cli.emulators import print_emulators

    print_emulators()


@emulator.command("run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("name")
@click.argument("arguments", nargs=-1, required=True, type=click.UNPROCESSED, metavar="SCRIPT [ARGUMENT]...")
@clear_errors
def run_emulated(name: str, arguments: tuple[str, ...]) -> None:
    """Run Python on the emulated CPU NAME: `edge-assets emulator run cortex-a76 FOLDER/infer.py` checks a release."""
    from edge_assets.devices.emulators import installed

    command = installed(name).command(*arguments)
    sys.stdout.flush()
    os.execvp(command[0], command)


@emulator.command("remove")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@clear_errors
def remove_emulators(names: tuple[str, ...]) -> None:
    """Free emulated CPUs, all by default. Those of one architecture share their files and go together."""
    from edge_assets.cli.emulators import print_removed
    from edge_assets.devices.emulators import remove

    print_removed(remove(names))


@main.command("c-code")
@click.argument("source", type=click.Path(exists=True, path_type=Path), metavar="RELEASE")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), default="firmware", show_default=True)
@click.option("--symbol", help="What the function's name begins with. Default: the model's name.")
@clear_errors
def c_code(source: Path, output: Path, symbol: str | None) -> None:
    """Write a full-int8 network as C for firmware: of a released folder, or of a .tflite file of your own.

    No library, no heap and no interpreter: weights are constants, activations lie in one static arena.
    """
    from edge_assets.cli.c_code import write_c_code

    write_c_code(source, output, symbol)


@main.command()
@click.option("--keep", type=click.IntRange(min=1), help="How many of a model's newest checkpoints keep all they have.")
@click.option(
    "--older-than",
    callback=duration,
    metavar="DURATION",
    default="30d",
    show_default=True,
    help="Not used for so long.",
)
@click.option("--model", "models", multiple=True, help="Free results of this model alone. Default: all.")
@click.option("--dry-run", is_flag=True, help="Say what would be freed, and free nothing.")
@clear_errors
def gc(keep: int | None, older_than: float, models: tuple[str, ...], dry_run: bool) -> None:
    """Free what nothing needs any more: in the store, in this state folder, and in its MLflow."""
    from edge_assets.defs.resources import store_resource
    from edge_assets.report.terminal import print_freed
    from resources import collection, superseded

    settings = home()
    policy = collection.Policy(
        older_than=older_than,
        keep=keep,
        models=models,
        dry_run=dry_run,
    )
    exports = (settings.releases, settings.root / "scorecards")
    freed = collection.collect(store_resource().open(), policy, exports)
    superseded.collect(settings.tracking_uri, policy, freed)
    print_freed(freed.counts, freed.sizes, freed.notes, dry_run)


@main.command()
@click.option("--dagster-port", type=click.IntRange(1, 65535), default=3000, show_default=True)
@click.option("--mlflow-port", type=click.IntRange(1, 65535), default=5000, show_default=True)
@clear_errors
def serve(dagster_port: int, mlflow_port: int) -> None:
    """Dagster (web server and daemon) and MLflow on 127.0.0.1, until Ctrl-C."""
    from edge_assets.cli.serve import serve as run

    run(dagster_port, mlflow_port)
