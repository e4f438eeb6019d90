"""Engines that a device builds and that come back, up to TensorRT itself, which no test machine has a GPU for.

The agent, the way over SSH, the store and the release are real; in the kit stands a small script instead of
TensorRT's. With the script of every kit, a board without a GPU says that it has none.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_assets.core.benchmark.harness import Contestant, measure
from edge_assets.core.benchmark.statistics import MODES
from edge_assets.core.evidence import Facts
from edge_assets.core.types import Built, Recipe, Result
from edge_assets.devices import reach
from edge_assets.devices.connection import Connection
from edge_assets.devices.engines import built_there
from edge_assets.devices.inventory import Device, Inventory
from edge_assets.devices.session import DeviceLoadable, DeviceWorker
from edge_assets.devices.transfer import send_artifact
from edge_assets.errors import DeviceError, MeasurementError
from edge_assets.families.nvidia import NVIDIA
from edge_assets.hashing import sha256_of
from edge_assets.pipeline import observers
from edge_assets.pipeline.cell import Cell
from edge_assets.pipeline.engines import Engines
from edge_assets.pipeline.judgement import Judgement
from edge_assets.pipeline.plan import why_missing
from edge_assets.targets.catalog import Target, parse_target
from edge_assets.targets.machine import gpus
from edge_assets.toolchains.tensorrt import kit
from resources import checkpoints
from resources.store import ArtifactStore, NotBuilt
from tests.devices import small_builder
from tests.tiny.spec import TINY

NAME = "tensorrt_engine_fp32"
BOARD: Target = parse_target(
    "bench-gpu",
    {
        "family": "nvidia",
        "description": "this machine, over SSH, which has no GPU",
        "architecture": "any",
        "match": {"system": "Linux"},
        "batch_sizes": [1],
        "threads": 1,
        "budgets": {"size": "8 GiB", "memory": "8 GiB"},
        "options": {"compute_capability": "9.0", "precisions": ["fp32"], "workspace": "1 GiB", "system": "Linux"},
    },
)


@pytest.fixture
def gpu_board(board: Device, tmp_path: Path) -> Device:
    """The board with an interpreter in which a distribution is called tensorrt."""
    named = tmp_path / "named" / "tensorrt-0.dist-info"
    named.mkdir(parents=True)
    (named / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorrt\nVersion: 0\n")
    interpreter = tmp_path / "python"
    interpreter.write_text(f'#!/bin/sh\nPYTHONPATH={named.parent} exec {board.interpreter} "$@"\n')
    interpreter.chmod(0o755)
    return replace(board, target=BOARD.name, interpreter=str(interpreter))


@pytest.fixture
def cell(store: ArtifactStore, checkpoint_file: Path) -> Cell:
    spec = replace(TINY, targets=("h100",), gates=replace(TINY.gates, max_size_bytes=None))
    checkpoint = checkpoints.register(store, spec.name, str(checkpoint_file))
    return Cell(spec, NVIDIA, BOARD, checkpoint, store, lambda _line: None)


@pytest.fixture
def attach(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> Callable[[Device], Engines]:
    """The engines of the cell, with that device in the project."""

    def attached(device: Device) -> Engines:
        reach.forget()
        monkeypatch.setattr(observers, "devices", lambda: Inventory({device.name: device}))
        again = replace(cell)
        return Engines(again, again.elsewhere)

    return attached


def kept_kit(store: ArtifactStore, script: Path, model: Path | None = None, **entries: str) -> Result:
    """A kit in the store without an engine, with that script."""

    def build(folder: Path) -> Mapping[str, object]:
        graph = folder / kit.MODEL
        if model:
            shutil.copyfile(model, graph)
        else:
            graph.write_bytes(b"a graph")
        shutil.copyfile(script, folder / kit.SCRIPT)
        said = {"onnx": {"sha256": sha256_of(graph)}, "engine": None, "needs_device": "its GPU is not here"}
        (folder / kit.KIT).write_text(json.dumps(said | entries))
        return {"needs_device": "its GPU is not here", "recipe": "fp32", "stand_in_sha256": sha256_of(graph)}

    inputs = {"script": sha256_of(script)} | entries
    if model:
        inputs["model"] = sha256_of(model)
    return store.remember(Recipe(NAME, "1", inputs, {"gpu": None}), build)


SMALL = Path(small_builder.__file__)


def test_an_engine_comes_back_and_is_part_of_the_artifact(
    attach: Callable[[Device], Engines], store: ArtifactStore, gpu_board: Device
) -> None:
    built = kept_kit(store, SMALL)
    engines = attach(gpu_board)
    planned = cell_of(engines).planning()
    with pytest.raises(NotBuilt) as missing:
        Engines(planned, planned.elsewhere).completed(built)
    assert why_missing(planned, missing.value.recipe) == f"engine: that of {NAME} is not built on its device yet"

    of_pytorch = Recipe("torch_int8", "1", {"checkpoint": "0" * 64}, {"engine": "qnnpack"})
    assert why_missing(planned, of_pytorch) == "torch_int8: not done yet"

    whole = engines.completed(built)
    assert whole.artifact is not None
    assert built.artifact is not None
    assert {file.path for file in whole.artifact.files} - {file.path for file in built.artifact.files} == {kit.ENGINE}
    folder = store.checkout(whole.artifact)
    _, place = kit.read_engine(folder, kit.read_kit(folder))
    assert place == kit.EnginePlatform("tests", "1", "0.0", "Linux", gpu=small_builder.GPU)
    assert "needs_device" not in whole.facts
    assert whole.facts["engine_bytes"] == (folder / kit.ENGINE).stat().st_size
    sentence = "engine built on board-1, a no GPU, for tests, for compute capability 0.0 by tests 1"
    assert whole.facts["engine"] == sentence

    away = attach(replace(gpu_board, address="ssh://127.0.0.1:1"))
    assert away.completed(built).sha256 == whole.sha256, "what it built stays"

    with Connection(gpu_board) as connection:  # which measures it: with the engine that came, and no other
        path = send_artifact(connection, whole.artifact, folder)
        again = connection.ask("build", path=path, sha256=whole.artifact.sha256)
    assert again["sha256"] == sha256_of(folder / kit.ENGINE)


def cell_of(engines: Engines) -> Cell:
    assert isinstance(engines.cell, Cell)
    return engines.cell


@pytest.mark.skipif(bool(gpus()), reason="this machine has an NVIDIA GPU")
def test_a_board_without_a_gpu_keeps_the_kit_and_says_so(
    attach: Callable[[Device], Engines], store: ArtifactStore, board: Device
) -> None:
    built = kept_kit(store, Path(str(kit.__file__)))
    assert why_not(attach(replace(board, target=BOARD.name)), built).endswith(
        "build_engine.py: there is no NVIDIA driver here, so no GPU to build for or to run on"
    )


def test_why_no_device_built_an_engine_is_said(
    attach: Callable[[Device], Engines], store: ArtifactStore, gpu_board: Device
) -> None:
    built = kept_kit(store, SMALL, refuse="operator Det (node 'volume'): no form of it")
    assert "build_engine.py: operator Det (node 'volume'): no form of it" in why_not(attach(gpu_board), built)
    off = replace(gpu_board, address="ssh://127.0.0.1:1", name="board-2")
    assert "board-2 cannot be reached: nothing answers" in why_not(attach(off), built)


def why_not(engines: Engines, built: Result) -> str:
    """What is said of a kit that no device gave an engine."""
    found = engines.completed(built)
    assert found.sha256 == built.sha256, "the kit stays the artifact"
    (note,) = found.said(Facts).notes
    assert note.startswith("no device built its engine: ")
    return note


def test_an_engine_that_was_cut_goes_on_and_one_that_changed_is_refused(
    store: ArtifactStore, gpu_board: Device, tmp_path: Path
) -> None:
    artifact = kept_kit(store, SMALL).artifact
    assert artifact is not None
    whole, _ = _fetched(gpu_board, store, tmp_path / "whole")
    content = whole.read_bytes()
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / whole.name).write_bytes(content[:2_000_000])
    again, _ = _fetched(gpu_board, store, kept)
    assert again.read_bytes() == content
    again.write_bytes(b"x" + content[1:])
    with pytest.raises(DeviceError, match="it was changed on its way"):
        _fetched(gpu_board, store, kept)
    assert not again.exists()


def test_a_kit_that_its_device_refuses_is_named_so_that_the_others_are_measured_without_it(
    store: ArtifactStore, gpu_board: Device, tmp_path: Path
) -> None:
    artifact = kept_kit(store, SMALL, refuse="operator Det (node 'volume'): no form of it").artifact
    assert artifact is not None
    contestant = Contestant(
        NAME,
        artifact.sha256,
        DeviceLoadable(
            runtime="tensorrt", path=str(store.checkout(artifact)), options={}, artifact=artifact, device=gpu_board
        ),
    )
    feeds = {"image": np.ones((1, 1, 8, 8), np.float32)}
    with pytest.raises(MeasurementError, match=r"operator Det \(node 'volume'\)") as refused:
        measure([contestant], feeds, MODES["rapid"], (1,), 1, print, start=DeviceWorker)
    assert refused.value.variant == NAME


def _fetched(device: Device, store: ArtifactStore, kept: Path) -> tuple[Path, kit.EnginePlatform]:
    kept.mkdir(exist_ok=True)
    artifact = kept_kit(store, SMALL).artifact
    assert artifact is not None
    with Connection(device) as connection:
        return built_there(connection, artifact, store.checkout(artifact), kept)


def test_a_release_has_the_engine_and_says_where_it_was_built(
    cell: Cell, attach: Callable[[Device], Engines], store: ArtifactStore, gpu_board: Device, tmp_path: Path
) -> None:
    """Judged by its graph, as every kit whose GPU is not here: nobody takes the test's engine for one that ran."""
    builts: dict[str, Built] = {name: cell.build(name) for name in ("checkpoint", "onnx_model", NAME)}
    real = builts[NAME]
    assert real.artifact is not None
    model = store.checkout(real.artifact) / kit.MODEL
    whole = attach(gpu_board).completed(kept_kit(store, SMALL, model))
    builts[NAME] = replace(real, build=replace(whole, facts={**real.build.facts, **whole.facts}))
    attach(replace(gpu_board, target="another"))
    judgement = Judgement(cell, builts, cell.measure(builts, "rapid"))
    released = judgement.release().artifact
    assert released is not None
    folder = store.checkout(released)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (folder / NAME / kit.ENGINE).exists()
    assert manifest["built_on"]["device"] == "board-1"
    assert manifest["built_on"]["gpu"] == small_builder.GPU
    assert "| engine built on | no GPU, for tests of board-1 |" in (folder / "MODEL_CARD.md").read_text()
