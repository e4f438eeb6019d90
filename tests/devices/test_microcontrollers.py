"""Networks as C on emulated microcontrollers, against TFLite Micro; skipped where nothing emulates one."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from edge_assets.core.evidence import Observed
from edge_assets.core.variant import CHECKPOINT
from edge_assets.devices import emulators, microcontrollers
from edge_assets.devices.emulators import Record, installed
from edge_assets.devices.microcontrollers import COMPILER, QEMU, SIZE, FirmwareError, Tools
from edge_assets.errors import EdgeAssetsError, MissingTool, Refused
from edge_assets.families.families import FAMILIES
from edge_assets.pipeline.cell import Cell
from edge_assets.pipeline.judgement import Judgement
from edge_assets.report import words
from edge_assets.targets.emulation import MICROCONTROLLERS, Region
from edge_assets.targets.project import target
from edge_assets.toolchains.litert import c_code
from resources import checkpoints
from resources.store import ArtifactStore
from tests.tiny.spec import TINY
from tests.toolchains.test_c_code import OPERATORS, in_tflite_micro, of

pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("ai_edge_litert", "tflite_micro")),
    reason="needs the extra microcontroller",
)


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `edge-assets emulator install cortex-m4` made, else this system's own programs; without either, skips."""
    try:
        _, tools = microcontrollers.emulated("cortex-m4")
    except MissingTool as missing:
        for program in (QEMU, COMPILER, SIZE):
            if shutil.which(program) is None:
                pytest.skip(f"{missing}; and {program} is not installed in this system")
    else:
        return tools.folder
    folder = tmp_path_factory.mktemp("emulators") / "cortex-m"
    folder.mkdir()
    (folder / emulators.SYSROOT).symlink_to("/")
    found = Tools(folder).versions()
    Record(layout=emulators.LAYOUT, qemu=found["qemu"], gcc=found["gcc"]).write(folder)
    return folder


@pytest.mark.parametrize("name", MICROCONTROLLERS)
def test_a_microcontroller_runs_a_program(name: str, installation: Path) -> None:
    microcontrollers.attempt(MICROCONTROLLERS[name], Tools(installation))


@pytest.mark.parametrize("name", MICROCONTROLLERS)
@pytest.mark.parametrize("operator", ["convolution, same", "softmax"])
def test_a_microcontroller_computes_what_tflite_micro_does(
    name: str, operator: str, installation: Path, tmp_path: Path
) -> None:
    program = of(OPERATORS[operator].bytes())
    samples = np.random.default_rng(3).integers(-128, 128, size=(64, *program.inputs[0].shape)).astype(np.int8)
    firmware = microcontrollers.build(MICROCONTROLLERS[name], Tools(installation), program, tmp_path)
    results, footprint = firmware.run({"given": samples})
    assert np.array_equal(results["result"], in_tflite_micro(OPERATORS[operator].bytes(), samples))
    assert footprint.flash_bytes > program.constant_bytes
    assert 0 < footprint.stack_bytes < 4096
    assert footprint.instructions > samples[0].size


def test_what_is_counted_says_by_whom(installation: Path, tmp_path: Path) -> None:
    """An arena of a certain size, a loop of a certain length."""
    source = (
        f'#include "{c_code.HEADER}"\n'
        "static volatile int32_t arena[100];\n"
        "void network_invoke(const int8_t *in, int8_t *out) {\n"
        "    volatile char on_the_stack[2000];\n"
        "    for (int i = 0; i < 100000; i++) arena[i % 100] = on_the_stack[i % 2000] = in[0];\n"
        "    out[0] = (int8_t)arena[99];\n}\n"
    )
    header = "#include <stdint.h>\nvoid network_invoke(const int8_t *, int8_t *);\n"
    files = {c_code.SOURCE: source, c_code.HEADER: header}
    port = c_code.Port("given", (1,), "int8_t", None)
    program = c_code.Program("network", (port,), (replace(port, name="result"),), files, 400, 0)
    cpu = MICROCONTROLLERS["cortex-m4"]
    results, found = microcontrollers.build(cpu, Tools(installation), program, tmp_path).run(
        {"given": np.array([[7], [8]], np.int8)}
    )
    assert results["result"].tolist() == [[7], [8]]
    assert found.arena_bytes == 400
    assert 2000 <= found.stack_bytes < 2100
    assert 300_000 < found.instructions < 3_000_000
    said = words.footprint(found)
    assert "from the linker" in said
    assert "counted by qemu" in said
    assert "no time follows" in said


def test_what_does_not_fit_the_board_is_refused(installation: Path, tmp_path: Path) -> None:
    small = replace(MICROCONTROLLERS["cortex-m4"], constants=Region(2**20, 64))
    with pytest.raises(Refused, match="does not fit the emulated board mps2-an386: .* MiB of constants"):
        microcontrollers.build(small, Tools(installation), of(OPERATORS["convolution, same"].bytes()), tmp_path)


def test_a_program_that_faults_is_told(installation: Path, tmp_path: Path) -> None:
    source = (
        f'#include "{c_code.HEADER}"\nvoid network_invoke(const int8_t *in, int8_t *out) {{ out[in[0] << 26] = 1; }}\n'
    )
    header = "#include <stdint.h>\nvoid network_invoke(const int8_t *, int8_t *);\n"
    port = c_code.Port("given", (1,), "int8_t", None)
    files = {c_code.SOURCE: source, c_code.HEADER: header}
    program = c_code.Program("network", (port,), (replace(port, name="result"),), files, 0, 0)
    firmware = microcontrollers.build(MICROCONTROLLERS["cortex-m4"], Tools(installation), program, tmp_path)
    with pytest.raises(FirmwareError, match=r"(?s)Cortex-M4 in qemu failed .*the processor faulted"):
        firmware.run({"given": np.array([[100]], np.int8)})


def test_a_microcontroller_runs_no_python() -> None:
    with pytest.raises(EdgeAssetsError, match="cortex-m4 is a microcontroller and runs no Python"):
        installed("cortex-m4")


# --- in a build ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cell(store: ArtifactStore, checkpoint_file: Path) -> Callable[[], Cell]:
    def make() -> Cell:
        pytest.importorskip("litert_torch")
        pytest.importorskip("ai_edge_quantizer")
        where = target("cortex-m4")
        checkpoint = checkpoints.register(store, TINY.name, str(checkpoint_file))
        return Cell(TINY, FAMILIES[where.family], where, checkpoint, store, log=lambda _line: None)

    return make


def test_without_one_it_says_what_installs_it(cell: Callable[[], Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_assets.pipeline.observers import not_emulated

    monkeypatch.setenv("EDGE_ASSETS_EMULATORS", "/nowhere")
    assert not_emulated(cell()) == "its instruction set can be emulated here: edge-assets emulator install cortex-m4"
    assert cell().elsewhere.observers.found == ()


def test_a_build_verifies_the_artifact_as_c(
    installation: Path, cell: Callable[[], Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the samples that it ran, bit for bit what TFLite Micro gives on this machine."""
    monkeypatch.setenv("EDGE_ASSETS_EMULATORS", str(installation.parent))
    place = cell()
    built = place.elsewhere.observed({"litert_int8_full": place.build("litert_int8_full")})["litert_int8_full"]
    (result,) = built.elsewhere or ()
    assert result.refused is None
    observed = result.said(Observed)
    assert observed.tier == "emulated"
    assert observed.by.startswith("Cortex-M4 (qemu ")
    assert observed.accuracy.samples == 64
    assert built.verified is not None
    assert observed.parity == built.verified.parity
    assert observed.footprint is not None
    assert 0 < observed.footprint.flash_bytes < 100_000
    assert set(observed.versions) == {"qemu", "gcc"}


def test_a_network_that_has_no_form_in_c_keeps_its_other_evidence_and_says_why(
    installation: Path, cell: Callable[[], Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_ASSETS_EMULATORS", str(installation.parent))
    monkeypatch.setattr("edge_assets.devices.microcontrollers.VERSION", "without a kernel")
    lacking = {name: emitter for name, emitter in c_code.EMITTERS.items() if name != "FULLY_CONNECTED"}
    monkeypatch.setattr(c_code, "EMITTERS", lacking)
    place = cell()
    plain = {name: place.build(name) for name in (CHECKPOINT, "litert_fp32", "litert_int8_full")}
    builts = place.elsewhere.observed(plain)
    judgement = Judgement(place, builts, place.measure(builts, "rapid"))
    assert judgement.winner().candidate.name == "litert_int8_full"
    (row,) = [row for row in judgement.rows if row.artifact == "litert_int8_full"]
    assert row.observations is None
    (note,) = row.notes
    assert "Cortex-M4 (qemu " in note
    assert "(FULLY_CONNECTED) has no form in C: there are kernels for ADD, " in note
