"""The catalog, and which target a machine is."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from edge_assets.cli import main
from edge_assets.errors import InvalidSpec, UnknownName
from edge_assets.targets import Machine, load_catalog, local_target, this_machine
from edge_assets.targets.catalog import BUILT_IN, NEWEST_OPSET, parse_target
from edge_assets.targets.emulation import EMULATABLE, EMULATED
from tests.conftest import Project

ENTRY = yaml.safe_load(BUILT_IN.read_text())["graviton3"]
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
    catalog = load_catalog().targets
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
    found = local_target(load_catalog().targets.values(), "nvidia", replace(EPYC, gpus=(gpu,)))
    assert (found.name if found else None) == name


def test_this_machine_says_what_it_is() -> None:
    machine = this_machine()
    assert machine.cores >= 1
    assert machine.memory_bytes > 2**28
    assert machine.cpu
    assert machine.architecture
    assert machine.system


def test_flavours_follow_the_hardware() -> None:
    catalog = load_catalog().targets
    flavours = {name: (t.quantization.flavour, t.quantization.reduce_range) for name, t in catalog.items()}
    assert flavours["x86-64-vnni"] == ("U8S8", False)
    assert flavours["x86-64-avx2"] == ("U8S8", True)
    assert flavours["raspberry-pi-5"] == flavours["graviton3"] == ("S8S8", False)
    assert all(target.opset >= 17 for target in catalog.values())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"opset": 13}, "opset: 13 must be greater than or equal to 17"),
        ({"opset": 999}, "opset: 999 must be less than or equal to"),
        ({"batch_sizes": [2, 4]}, "begin with 1"),
        ({"batch_sizes": 3}, "batch_sizes: 3 must be a list"),
        ({"batch_sizes": [1, 0]}, "batch_sizes.1: 0 must be greater"),
        ({"device": "ssh"}, "device: ssh must be 'local'"),
        ({"quantization": {"activations": "int4"}}, "quantization.activations: int4 must be 'uint8' or 'int8'"),
        ({"quantization": {"per_channel": 1}}, "quantization.per_channel: 1 must be"),
        ({"quantization": {"torch_engine": "foo"}}, "torch_engine: foo must be 'x86' or 'qnnpack'"),
        ({"quantization": None}, "quantization: None must be a mapping"),
        ({"budgets": {"size": "many", "memory": "1 GiB"}}, "budgets.size: 'many' is not a size"),
        ({"budgets": {"size": "0 B", "memory": "1 GiB"}}, "budgets.size: '0 B' is not a size"),
        ({"colour": "red"}, "colour: is no field that there is"),
        ({"match": {"boards": "Pi"}}, "match.boards: is no field that there is"),
        ({"match": ["Pi"]}, "match: .* must be a mapping"),
        ({"match": {"gpu": "RTX ["}}, "match.gpu: 'RTX \\[' is not a regular expression"),
        ({"match": {"instruction_sets": "avx2"}}, "instruction_sets: avx2 must be a list"),
        ({"match": {"browser": "netscape"}}, "browser: netscape must be 'chromium'"),
        ({"threads": "four"}, "threads: four must be"),
        ({"threads": 0}, "threads: 0 must be greater"),
        ({"threads": True}, "threads: True must be"),
        ({"options": ["fast"]}, "options: .* must be a mapping"),
        ({"emulation": ["cortex-a99"]}, "emulation.0: 'cortex-a99' is no emulated CPU: arm-max, cortex-a72"),
        ({"emulation": "cortex-a76"}, "emulation: cortex-a76 must be a list"),
        ({"emulation": [76]}, "emulation.0: 76 must be text"),
        ({"emulation": ["haswell"]}, "emulation: haswell is a CPU of x86_64, the target of aarch64"),
        (
            {"family": 5, "threads": -3},
            "family: 5 must be text\ntarget mine.threads: -3 must be greater",
        ),
    ],
)
def test_a_wrong_entry_is_named(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidSpec, match=f"target mine.*{reason}"):
        parse_target("mine", {**ENTRY, **change})


def test_targets_are_emulated_by_cpus_that_have_what_they_match() -> None:
    """But for what no emulated CPU has: a board, and the lack of what qemu's `max` has beyond a Graviton 3."""
    emulated = {name: entry.emulation for name, entry in load_catalog().targets.items() if entry.emulation}
    assert emulated == {
        "x86-64-avx2": ("haswell",),
        "raspberry-pi-5": ("cortex-a76",),
        "graviton3": ("arm-max",),
        "pixel-8": ("arm-max",),
        "snapdragon-8": ("cortex-a76", "arm-max"),
        "android-midrange": ("cortex-a76",),
        "cortex-m4": ("cortex-m4",),
        "cortex-m7": ("cortex-m7",),
        "cortex-m55": ("cortex-m55",),
    }
    for name, cpus in emulated.items():
        for cpu in cpus:
            for wanted in load_catalog().target(name).match.instruction_sets:
                assert set(wanted.split("|")) & set(EMULATABLE[cpu].instruction_sets), f"{cpu} has no {wanted}"


@pytest.mark.parametrize("name", ["cortex-a76", "haswell"])
def test_the_cpuinfo_of_an_emulated_cpu_is_read_as_a_machines(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = EMULATED[name].cpuinfo()
    monkeypatch.setattr("edge_assets.targets.machine._read", lambda path: lines if path == "/proc/cpuinfo" else None)
    machine = this_machine.__wrapped__()
    assert machine.cpu == EMULATED[name].cpu
    assert machine.instruction_sets == tuple(sorted(EMULATED[name].instruction_sets))


def printed_schema() -> Draft202012Validator:
    schema = json.loads(CliRunner().invoke(main, ["schema"]).output)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_the_built_in_catalog_is_valid_by_the_printed_schema() -> None:
    catalog = yaml.safe_load(BUILT_IN.read_text())
    assert [error.message for error in printed_schema().iter_errors(catalog)] == []
    printed_schema().validate({"mine": ENTRY})


def test_a_copy_of_the_built_in_catalog_reads_the_same(tmp_path: Path) -> None:
    copy = tmp_path / "copy.yaml"
    copy.write_text(re.sub(r"^(?=[a-z0-9])", "copy-", BUILT_IN.read_text(), flags=re.MULTILINE))
    loaded = load_catalog(copy)
    assert not loaded.broken
    assert not loaded.unread
    for name, target in load_catalog().targets.items():
        assert replace(loaded.targets[f"copy-{name}"], name=name) == target


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"threads": "four"}, ["threads"]),
        ({"threads": -3}, ["threads"]),
        ({"threads": None}, ["threads"]),
        ({"quantization": {"per_channel": "maybe"}}, ["quantization", "per_channel"]),
        ({"quantization": {"torch_engine": "foo"}}, ["quantization", "torch_engine"]),
        ({"match": {"instruction_sets": "asimd"}}, ["match", "instruction_sets"]),
        ({"match": {"boards": "Pi"}}, ["match"]),
        ({"batch_sizes": [2, 4]}, ["batch_sizes", 0]),
        ({"batch_sizes": []}, ["batch_sizes"]),
        ({"budgets": {"size": "many", "memory": "1 GiB"}}, ["budgets", "size"]),
        ({"budgets": {"size": "1 GiB"}}, ["budgets"]),
        ({"family": "toaster"}, ["family"]),
        ({"opset": 13}, ["opset"]),
        ({"emulation": ["cortex-a99"]}, ["emulation", 0]),
        ({"colour": "red"}, []),
    ],
)
def test_a_wrong_entry_is_marked_by_the_printed_schema(change: dict[str, Any], where: list[str | int]) -> None:
    errors = list(printed_schema().iter_errors({"mine": {**ENTRY, **change}}))
    assert [list(error.absolute_path) for error in errors] == [["mine", *where]]


def test_a_wrong_name_is_marked_by_the_printed_schema() -> None:
    for name in ("Upper", "a..b", "a|b", ""):
        assert not printed_schema().is_valid({name: ENTRY})


@pytest.mark.parametrize("name", ["a|b", "a/b", "../../../x", "a..b", "", 5, True, "a\nb", "it's", "Upper", "n" * 64])
def test_a_name_that_could_not_be_a_partition_is_refused(name: object) -> None:
    with pytest.raises(InvalidSpec, match="the name must be lower-case") as error:
        parse_target(name, ENTRY)
    assert str(error.value).isprintable()


def test_the_newest_opset_is_the_one_of_the_installed_onnx() -> None:
    import onnx

    assert onnx.defs.onnx_opset_version() == NEWEST_OPSET


def test_users_add_targets_and_redefine_none(tmp_path: Path) -> None:
    mine = written(tmp_path, {"orange-pi-5": {**ENTRY, "opset": 18}, "graviton3": ENTRY})
    catalog = load_catalog(mine)
    assert catalog.target("orange-pi-5").opset == 18
    with pytest.raises(InvalidSpec, match="'graviton3' is already defined"):
        catalog.target("graviton3")
    with pytest.raises(UnknownName, match="Did you mean orange-pi-5"):
        catalog.target("orange-pi")


def written(folder: Path, entries: object) -> Path:
    path = folder / "targets.yaml"
    path.write_text(yaml.safe_dump(entries))
    return path


def test_a_wrong_entry_leaves_the_others_alone(tmp_path: Path) -> None:
    mine = written(
        tmp_path, {"good": ENTRY, "a|b": ENTRY, "empty": None, True: ENTRY, "slow": {**ENTRY, "threads": -3}}
    )
    with mine.open("a") as file:
        file.write("twice: {family: cpu, family: nvidia}\nodd: !!python/object:os.system {}\n")
    catalog = load_catalog(mine)
    assert catalog.target("good").family == "cpu"
    assert catalog.target("graviton3")
    assert set(catalog.broken) == {"a|b", "empty", "True", "slow", "twice", "odd"}
    with pytest.raises(InvalidSpec, match="target twice: 'family' is given twice .line "):
        catalog.target("twice")


@pytest.mark.parametrize("content", [b"a: [", b"\xff\xfe\x00", b"- a list", b"", b"&a [*a]", None])
def test_a_file_that_cannot_be_read_stops_only_those_who_may_need_it(tmp_path: Path, content: bytes | None) -> None:
    mine = tmp_path / "targets.yaml"
    if content is not None:
        mine.write_bytes(content)
    catalog = load_catalog(mine)
    assert catalog.target("graviton3")
    with pytest.raises(InvalidSpec, match=f"catalog {mine}: cannot be read: ") as error:
        catalog.target("of-mine")
    assert str(error.value).isprintable()
    assert str(error.value).count(str(mine)) == 1
    assert content != b"a: [" or "(line 1)" in str(error.value)


def test_one_bad_target_name_breaks_its_model_alone(project: Project) -> None:
    """In a project of two models, one of which uses a target whose entry is wrong."""
    (project.folder / "targets.yaml").write_text(yaml.safe_dump({"a|b": ENTRY}))
    (project.folder / "pyproject.toml").write_text('[tool.edge_assets]\nmodels = []\ntargets = ["targets.yaml"]\n')
    (project.folder / "mine.py").write_text(
        "from dataclasses import replace\nfrom tests.tiny.spec import TINY\n"
        "SPEC = replace(TINY, name='other', targets=('a|b',))\n"
    )
    models = {"EDGE_ASSETS_MODELS": "tests.tiny.spec:TINY,mine:SPEC"}
    result = project.run("doctor", **models)
    assert "model tiny: graviton3, raspberry-pi-5" in result.stdout
    assert result.stdout.count("target a|b: the name must be") == 2, "the entry, and the model that uses it"
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    result = project.run_module("tests.ask", "sensor", "1", **models)
    assert result.returncode == 0, result.stderr
