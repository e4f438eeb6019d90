"""TensorRT on a GPU: kits are built, verified and timed on it through the agent, over SSH to this machine itself.

Skipped, with the reason, where there is no NVIDIA GPU or neither TensorRT nor TensorRT-RTX. TENSORRT_PYTHON names the
interpreter that has it, where that is another one than the tests'.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from edge_assets.core.evidence import Row
from edge_assets.core.types import Built
from edge_assets.core.variant import CHECKPOINT
from edge_assets.devices.inventory import Device, Inventory
from edge_assets.families.nvidia import NVIDIA
from edge_assets.pipeline import observers
from edge_assets.pipeline.cell import Cell
from edge_assets.pipeline.judgement import Judgement
from edge_assets.targets.catalog import Target, parse_target
from edge_assets.targets.machine import gpus, nvidia_driver
from edge_assets.toolchains.tensorrt import kit
from resources import checkpoints
from resources.store import ArtifactStore
from tests.tiny.spec import TINY

pytestmark = [
    pytest.mark.skipif(not gpus(), reason="no NVIDIA GPU here"),
    pytest.mark.skipif(
        not kit.installed_builders() and "TENSORRT_PYTHON" not in os.environ,
        reason="neither tensorrt nor tensorrt-rtx is installed",
    ),
]
PRECISIONS = ("fp32", "fp16", "int8")


def target_of_this_gpu() -> Target:
    """No target of the catalog, so that the GPU is reached as a device and not as this machine's own."""
    _, capability = kit.Cuda().gpu()
    return parse_target(
        "bench-gpu",
        {
            "family": "nvidia",
            "description": "this machine's GPU, over SSH",
            "architecture": "any",
            "match": {"system": "Linux"},
            "batch_sizes": [1, 8],
            "threads": 1,
            "budgets": {"size": "8 GiB", "memory": "8 GiB"},
            "options": {
                "compute_capability": capability,
                "precisions": list(PRECISIONS),
                "workspace": "1 GiB",
                "system": "Linux",
            },
        },
    )


@pytest.fixture
def cell(store: ArtifactStore, checkpoint_file: Path, board: Device, monkeypatch: pytest.MonkeyPatch) -> Cell:
    target = target_of_this_gpu()
    device = replace(board, target=target.name, interpreter=os.environ.get("TENSORRT_PYTHON", board.interpreter))
    monkeypatch.setattr(observers, "devices", lambda: Inventory({device.name: device}))
    spec = replace(TINY, targets=("h100",), gates=replace(TINY.gates, max_size_bytes=None))
    checkpoint = checkpoints.register(store, spec.name, str(checkpoint_file))
    return Cell(spec, NVIDIA, target, checkpoint, store)


def judged(cell: Cell) -> tuple[dict[str, Row], Judgement]:
    engines = [f"tensorrt_engine_{precision}" for precision in PRECISIONS]
    names = [CHECKPOINT, *(variant.name for variant in NVIDIA.variants if variant.is_candidate is False), *engines]
    builts: dict[str, Built] = {name: cell.build(name) for name in names}
    builts = cell.observe(builts)
    judgement = Judgement(cell, builts, cell.measure(builts, "rapid"))
    return {row.artifact: row for row in judgement.rows}, judgement


def test_kits_are_built_verified_and_timed_on_the_gpu_through_the_agent(cell: Cell) -> None:
    rows, judgement = judged(cell)
    engines = [rows[f"tensorrt_engine_{precision}"] for precision in PRECISIONS]
    for row in engines:
        print(row)
        if row.precision == "int8" and "build it with TensorRT 10 or later" in row.reason:
            continue  # an older one, which measured the others
        assert row.p50_ms is not None, row.reason
        assert row.provenance is not None
        assert {origin.tier for origin in row.provenance.values()} == {"device"}
        assert row.findings is None

    released = judgement.release().artifact
    assert released is not None
    folder = cell.store.checkout(released)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["built_on"]["device"] == "board-1"
    assert manifest["built_on"]["gpu"] == gpus()[0]
    assert manifest["built_on"]["driver"] == nvidia_driver()
    assert (folder / manifest["artifact"] / kit.ENGINE).exists()
