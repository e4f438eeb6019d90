"""The catalog, and which target a machine is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_assets.core.errors import InvalidSpec
from edge_assets.targets import Machine, load_catalog, local_target, this_machine
from edge_assets.targets.catalog import BUILT_IN, parse_target

EPYC = Machine("AMD EPYC", "x86_64", 2, ("avx2", "avx512_vnni", "avx512f", "fma"), 2**34, "Linux", None, None)
SKYLAKE = replace(EPYC, cpu="Core i7-6700", instruction_sets=("avx2", "fma"))
ALDER_LAKE = replace(EPYC, cpu="Core i7-12700", instruction_sets=("avx2", "avx_vnni", "fma"))
PI = Machine("Cortex-A76", "aarch64", 4, ("asimd", "asimddp"), 2**33, "Linux", "Raspberry Pi 5 Model B Rev 1.0", None)
OTHER_A76 = replace(PI, board="Orange Pi 5")
GRAVITON3 = replace(PI, cpu="Neoverse V1", board=None, instruction_sets=("asimd", "asimddp", "bf16", "i8mm", "sve"))
GRAVITON4 = replace(GRAVITON3, cpu="Neoverse V2", instruction_sets=(*GRAVITON3.instruction_sets, "sve2"))


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        (EPYC, "x86-64-vnni"),
        (ALDER_LAKE, "x86-64-vnni"),
        (SKYLAKE, "x86-64-avx2"),
        (PI, "raspberry-pi-5"),
        (OTHER_A76, None),
        (GRAVITON3, "graviton3"),
        (GRAVITON4, None),
    ],
    ids=lambda value: value.cpu if isinstance(value, Machine) else value,
)
def test_a_machine_is_recognised_as_its_own_target_and_no_other(machine: Machine, name: str | None) -> None:
    catalog = load_catalog()
    found = local_target(catalog.values(), "cpu", machine)
    assert (found.name if found else None) == name
    matching = [t.name for t in catalog.values() if t.family == "cpu" and machine.matches(t)]
    assert matching == ([name] if name else [])


@pytest.mark.parametrize(
    ("gpu", "name"),
    [
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", None),
        ("Tesla T4", "t4"),
        ("NVIDIA A100-SXM4-40GB", "a100"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("Orin (nvgpu)", "jetson-orin"),
    ],
)
def test_a_gpu_is_recognised_as_its_own_target(gpu: str, name: str | None) -> None:
    found = local_target(load_catalog().values(), "nvidia", replace(EPYC, gpus=(gpu,)))
    assert (found.name if found else None) == name


def test_this_machine_says_what_it_is() -> None:
    machine = this_machine()
    assert machine.cores >= 1
    assert machine.memory_bytes > 2**28
    assert machine.cpu and machine.architecture and machine.system


def test_flavours_follow_the_hardware() -> None:
    catalog = load_catalog()
    flavours = {name: (t.quantization.flavour, t.quantization.reduce_range) for name, t in catalog.items()}
    assert flavours["x86-64-vnni"] == ("U8S8", False)
    assert flavours["x86-64-avx2"] == ("U8S8", True)
    assert flavours["raspberry-pi-5"] == flavours["graviton3"] == ("S8S8", False)
    assert all(target.opset >= 17 for target in catalog.values())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"opset": 13}, "13 is below 17"),
        ({"batch_sizes": [2, 4]}, "begin with 1"),
        ({"device": "ssh"}, "neither 'local' nor null"),
        ({"quantization": {"activations": "int4"}}, "'int4' is not uint8 or int8"),
        ({"budgets": {"size": "many", "memory": "1 GiB"}}, "'many' is not a size"),
        ({"colour": "red"}, "unknown .'colour'."),
        ({"match": {"boards": "Pi"}}, "missing or unknown key: .*'boards'"),
    ],
)
def test_a_wrong_entry_is_named(change: dict[str, Any], reason: str) -> None:
    entry = yaml.safe_load(BUILT_IN.read_text())["graviton3"]
    with pytest.raises(InvalidSpec, match=f"target mine.*{reason}"):
        parse_target("mine", {**entry, **change})


def test_users_add_targets_and_redefine_none(tmp_path: Path) -> None:
    entry = yaml.safe_load(BUILT_IN.read_text())["raspberry-pi-5"]
    mine = tmp_path / "targets.yaml"
    mine.write_text(yaml.safe_dump({"orange-pi-5": {**entry, "opset": 18}}))
    assert load_catalog(mine)["orange-pi-5"].opset == 18
    mine.write_text(yaml.safe_dump({"graviton3": entry}))
    load_catalog.cache_clear()
    with pytest.raises(InvalidSpec, match="'graviton3' is already defined"):
        load_catalog(mine)
