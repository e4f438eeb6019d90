"""Android and microcontrollers: what the programs hold, who refuses them and why, and what they take of a device."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_assets.core.memory import Lifetime, peak_live_bytes
from edge_assets.core.one_sample import one_by_one
from edge_assets.core.shapes import written
from edge_assets.core.types import Built
from edge_assets.core.variant import CHECKPOINT
from edge_assets.errors import NothingReleasable, Refused
from edge_assets.families.families import FAMILIES
from edge_assets.pipeline.candidates import known_of
from edge_assets.pipeline.cell import Cell
from edge_assets.pipeline.judgement import Judgement
from edge_assets.spec.model import ModelSpec
from edge_assets.targets import Target
from edge_assets.targets.project import target
from edge_assets.toolchains.litert import c_array, tflite_micro
from edge_assets.toolchains.litert import convert as litert
from edge_assets.toolchains.litert import half as litert_half
from edge_assets.toolchains.litert import micro as litert_micro
from edge_assets.toolchains.litert import session as litert_session
from resources import checkpoints
from resources.store import ArtifactStore
from tests.facts import said
from tests.tiny.spec import TINY, UNSUPPORTED

NEEDED = ("litert_torch", "ai_edge_quantizer", "tflite_micro", "executorch", "torchao")
pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in NEEDED), reason="needs the extras android and microcontroller"
)
Build = Callable[..., Built]


@pytest.fixture(scope="module")
def cell(store: ArtifactStore, checkpoint_file: Path) -> Callable[..., Cell]:
    def make(on: Target | str, spec: ModelSpec = TINY) -> Cell:
        where = target(on) if isinstance(on, str) else on
        checkpoint = checkpoints.register(store, spec.name, str(checkpoint_file))
        return Cell(spec, FAMILIES[where.family], where, checkpoint, store, log=lambda _line: None)

    return make


@pytest.fixture(scope="module")
def build(cell: Callable[..., Cell]) -> Build:
    """Builds a variant of a spec for a target, its sources first; memoized by the store."""

    def make(name: str, on: Target | str = "pixel-8", spec: ModelSpec = TINY) -> Built:
        return cell(on, spec).build(name)

    return make


@pytest.fixture(scope="module")
def path(build: Build, store: ArtifactStore) -> Callable[..., Path]:
    """Local path of a built variant's artifact."""

    def find(name: str, on: str = "pixel-8") -> Path:
        built = build(name, on)
        assert built.artifact is not None, built.build.refused
        return store.checkout(built.artifact)

    return find


@pytest.fixture(scope="module")
def micro(path: Callable[..., Path]) -> Callable[[], Path]:
    """The microcontroller's model file; its C source is beside it."""
    return lambda: path("litert_int8_full", "cortex-m4") / litert.FILE


# --- LiteRT --------------------------------------------------------------------------------------------


def test_the_interface_has_the_specs_names_and_nhwc_images(build: Build) -> None:
    facts = said(build("litert_fp32"))
    (image,), (logits,) = facts["signature"]["inputs"], facts["signature"]["outputs"]
    assert image == {"name": "image", "dtype": "float32", "shape": [1, 8, 8, 1], "layout": "NHWC"}
    assert logits == {"name": "logits", "dtype": "float32", "shape": [1, 10], "layout": "as in PyTorch"}
    assert "sample after sample" in facts["batch"]


def test_channels_last_means_that_axes_move() -> None:
    port = litert_session.Port(0, np.float32, None, 0, channels_last=True)
    image = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)  # NCHW
    assert port.encode(image).shape == (1, 3, 4, 2)
    assert port.encode(image)[0, 2, 3, 1] == image[0, 1, 2, 3]
    assert np.array_equal(port.decode(port.encode(image)), image)


def test_quantized_ports_round_and_saturate() -> None:
    port = litert_session.Port(0, np.int8, 0.5, -10, channels_last=False)
    assert port.encode(np.array([0.0, 0.3, 1e6, -1e6])).tolist() == [-10, -9, 127, -128]
    assert port.decode(np.array([-10, -9, 127], np.int8)).tolist() == [0.0, 0.5, 68.5]


def test_samples_of_a_batch_are_run_one_after_another() -> None:
    seen = []

    def run(feeds: Any) -> dict[str, np.ndarray]:
        seen.append(feeds["x"].shape)
        return {"y": feeds["x"] * 2}

    batch = np.arange(6.0).reshape(3, 2)
    assert np.array_equal(one_by_one(run, {"x": batch})["y"], batch * 2)
    assert seen == [(1, 2)] * 3


def test_weights_are_of_the_type_that_the_name_says(path: Callable[..., Path]) -> None:
    kinds = {"litert_fp32": "FLOAT32", "litert_fp16": "FLOAT16", "litert_int8_dynamic": "INT8", "litert_int4": "INT4"}
    total = sum(litert.weights_by_type(path("litert_fp32")).values())
    # with one input channel the first convolution is depthwise, which has no int4 form: 16 x 3 x 3 weights
    expected = {"litert_int4": total - 144}
    for name, kind in kinds.items():
        assert litert.weights_by_type(path(name))[kind] == expected.get(name, total), name
    sizes = [path(name).stat().st_size for name in kinds]
    assert sizes == sorted(sizes, reverse=True), "each is smaller than the one before"


def test_static_int8_is_integer_inside_and_float_outside(path: Callable[..., Path], build: Build) -> None:
    facts = said(build("litert_int8_static"))
    assert facts["signature"]["inputs"][0]["dtype"] == facts["signature"]["outputs"][0]["dtype"] == "float32"
    assert facts["calibration_samples"] == 200
    assert litert.operators_on(path("litert_int8_static"), litert_micro.FLOATS) == {"QUANTIZE", "DEQUANTIZE"}


def test_delegation_is_counted_by_operator(build: Build) -> None:
    found = build("litert_fp32").facts.delegation
    assert found is not None
    assert found.by_operator is not None
    assert found.delegated_nodes == found.nodes > 0
    assert found.partitions == 1
    assert found.by_operator["FULLY_CONNECTED"] == "1 of 1"
    assert (found.by_operator["CONV_2D"], found.by_operator["DEPTHWISE_CONV_2D"]) == ("2 of 2", "1 of 1")
    found = build("executorch_fp32").facts.delegation
    assert found is not None
    assert found.by_operator is not None
    assert found.delegate == "XnnpackBackend"
    assert found.by_operator["aten_convolution_default"] == "3 of 3"
    assert sum(int(count.split()[0]) for count in found.by_operator.values()) == found.delegated_nodes


def test_one_conversion_serves_every_target(build: Build) -> None:
    hashes = {on: build("litert_fp32", on).build.recipe.sha256 for on in ("pixel-8", "android-midrange", "cortex-m7")}
    assert len(set(hashes.values())) == 1
    assert build("litert_int8_static", "snapdragon-8").build.sha256 == build("litert_int8_static").build.sha256
    assert build("litert_fp32", "cortex-m4").build.reused


def test_fp16_is_also_evaluated_as_gpus_compute_it(path: Callable[..., Path], cell: Callable[..., Cell]) -> None:
    opened = [
        module.open_session(
            path("litert_fp16"), threads=1, inputs=["image"], outputs=["logits"], channels_last=["image"]
        )
        for module in (litert_session, litert_half)
    ]
    images = np.random.default_rng(0).normal(size=(4, 1, 8, 8)).astype(np.float32)
    whole, half = (session.run({"image": images})["logits"] for session in opened)
    assert np.array_equal(half, half.astype(np.float16).astype(np.float32))
    assert 0 < np.abs(half - whole).max() < 0.02 * np.abs(whole).max()
    large = [session.run({"image": 1e6 * images})["logits"] for session in opened]
    assert np.isfinite(large[0]).all()
    assert not np.isfinite(large[1]).all(), "fp16 ends at 65,504"
    builts = cell("pixel-8").observe({"litert_fp16": cell("pixel-8").build("litert_fp16")})
    known = known_of(cell("pixel-8"), builts["litert_fp16"])
    assert known is not None
    assert [provenance.tier for provenance, _ in known.tiers] == ["host", "reference"]
    assert "rounded to fp16 as on GPUs" in known.tiers[1][0].by
    snrs = [found.parity.snr_db or 0.0 for _, found in known.tiers]
    assert snrs[0] > snrs[1] > 40, "the gate goes by the CPU's, as the release computes"


# --- ExecuTorch ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["executorch_int8_dynamic", "executorch_8da4w"])
def test_schemes_of_linear_layers_are_refused_for_convolutions(build: Build, name: str) -> None:
    refused = build(name).build.refused
    # 1,280 of 15,418 parameters are the linear layer's weights
    assert refused
    assert "hold 8 % of the weights (at least 50 % needed)" in refused
    assert "Use " in refused


def test_int8_is_a_quarter_of_the_weights(path: Callable[..., Path], build: Build) -> None:
    built = build("executorch_int8_static")
    assert built.recipe == "int8_static_pt2e_s8s8_perchannel_minmax"
    assert said(built)["quantize_nodes"] > 0
    saved = path("executorch_fp32").stat().st_size - path("executorch_int8_static").stat().st_size
    assert saved > 0.6 * 3 * 15_248, "three bytes of four of most weights"


def test_vulkan_is_built_and_says_why_it_is_unverified(build: Build) -> None:
    built = build("executorch_vulkan")
    assert built.artifact is not None
    assert said(built)["session"] == {"backends": ["VulkanBackend"]}
    assert built.parity is None
    assert "lowered to VulkanBackend, which ExecuTorch's runtime" in (built.unverified or "")


def test_memory_is_estimated_from_program_and_activations(path: Callable[..., Path], build: Build) -> None:
    estimate = build("executorch_fp32").facts.memory_estimate
    assert estimate is not None
    activations = estimate.bytes - path("executorch_fp32").stat().st_size
    # at least the first convolution's output and its normalization, float32 [16, 8, 8]; at most 100 kB
    assert 2 * 4 * 16 * 8 * 8 <= activations < 100_000
    assert "peak live activations" in estimate.how


def test_peak_of_live_tensors() -> None:
    assert peak_live_bytes([Lifetime(10, 0, 1), Lifetime(20, 1, 2), Lifetime(5, 2, 3)]) == 30
    assert peak_live_bytes([]) == 0


# --- refusals ------------------------------------------------------------------------------------------


def test_an_unsupported_operator_names_itself_the_format_and_the_nearest_alternative(build: Build) -> None:
    litert_reason = build("litert_fp32", spec=UNSUPPORTED).build.refused or ""
    assert "aten.special_bessel_j0.default has no LiteRT form" in litert_reason
    assert "ExecuTorch" in litert_reason
    reason = build("executorch_fp32", spec=UNSUPPORTED).build.refused or ""
    assert "no ExecuTorch backend or portable kernel computes aten::special_bessel_j0" in reason
    assert "LiteRT" in reason
    following = build("litert_int8_full", "cortex-m4", UNSUPPORTED).build.refused or ""
    assert "there is no litert_fp32" in following


def test_operators_that_the_microcontroller_runtime_lacks_are_named(
    micro: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = micro()
    litert_micro.check_operators(model)
    known = tflite_micro.operators()
    monkeypatch.setattr(tflite_micro, "operators", lambda: known - {"CONV_2D", "RESHAPE"})
    with pytest.raises(Refused, match=r"TFLite Micro has no kernel for CONV_2D.*litert_int8_static"):
        litert_micro.check_operators(model)


def test_float_operators_are_no_full_int8(path: Callable[..., Path], micro: Callable[[], Path]) -> None:
    litert_micro.check_integer(micro())
    with pytest.raises(Refused, match=r"no int8 form of .*CONV_2D"):
        litert_micro.check_integer(path("litert_fp32"))


# --- microcontrollers ----------------------------------------------------------------------------------


def test_full_int8_takes_and_gives_int8(build: Build) -> None:
    signature = said(build("litert_int8_full", "cortex-m4"))["signature"]
    (image,), (logits,) = signature["inputs"], signature["outputs"]
    assert image["dtype"] == logits["dtype"] == "int8"
    assert image["scale"] > 0
    assert logits["scale"] > 0


def test_size_is_what_goes_to_flash(micro: Callable[[], Path], build: Build) -> None:
    built = build("litert_int8_full", "cortex-m4")
    assert built.artifact is not None
    assert len(built.artifact.files) == 3
    assert built.size_bytes == micro().stat().st_size < built.artifact.size_bytes


def test_weights_are_inside_the_flatbuffer_where_tflite_micro_reads_them(micro: Callable[[], Path]) -> None:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    images = np.random.default_rng(0).normal(size=(16, 1, 8, 8)).astype(np.float32)
    names = {"inputs": ["image"], "outputs": ["logits"], "channels_last": ["image"]}
    ours = tflite_micro.open_session(micro(), threads=1, **names).run({"image": images})["logits"]
    reference = Interpreter(model_path=str(micro()), experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    expected = litert_session.LiteRTSession(reference, ["image"], ["logits"], ["image"]).run({"image": images})[
        "logits"
    ]
    assert np.array_equal(ours, expected), "both have the same reference kernels: equal to the last bit"


def test_the_arena_is_what_the_interpreter_needs(micro: Callable[[], Path], build: Build) -> None:
    from tflite_micro.python.tflite_micro import runtime

    arena = said(build("litert_int8_full", "cortex-m4"))["arena"]
    assert arena["total"] == arena["head"] + arena["tail"]
    assert arena["head"] >= arena["peak_live_tensor_bytes"] >= 8 * 8 * 16, "no plan fits in less than what lives"
    model = str(micro())
    slack = 4096  # the interpreter records its own allocations, which takes memory too
    runtime.Interpreter.from_file(model, arena_size=arena["total"] + slack).invoke()
    with pytest.raises(RuntimeError):
        runtime.Interpreter.from_file(model, arena_size=arena["total"] // 2)


def test_a_runtime_with_one_thread_is_asked_in_several_processes(
    build: Build, cell: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evaluation set in as many parts as there are cores gives what it gives in one."""
    verification = cell("cortex-m4").verification
    variant = cell("cortex-m4").family.variant("litert_int8_full")
    loadable = verification.loadable("tflite_micro", build("litert_int8_full", "cortex-m4").build)
    found = []
    for cores in (1, 3):
        monkeypatch.setattr("edge_assets.pipeline.verification.usable_cores", lambda cores=cores: cores)
        found.append(verification._evaluated(variant, verification.request(loadable, 100)))
    assert found[0] == found[1]
    assert found[0].accuracy.samples == 100


def test_the_c_array_compiles_to_the_models_bytes(micro: Callable[[], Path], tmp_path: Path) -> None:
    folder, model = micro().parent, micro().read_bytes()
    assert c_array.read_array(folder / "model.cc") == model
    (tmp_path / "main.cc").write_text(
        '#include <cstdint>\n#include <cstdio>\n#include "model.h"\n'
        "int main() {\n  fwrite(tiny_model, 1, tiny_model_len, stdout);\n"
        "  return reinterpret_cast<std::uintptr_t>(tiny_model) % 16;\n}\n"
    )
    program = tmp_path / "main"
    sources = [str(tmp_path / "main.cc"), str(folder / "model.cc")]
    subprocess.run(["g++", "-Wall", "-Werror", "-I", str(folder), *sources, "-o", str(program)], check=True)
    result = subprocess.run([str(program)], capture_output=True, check=True)  # it ends with 0 if aligned
    assert result.stdout == model


def test_what_does_not_fit_is_refused_at_release_with_the_numbers(build: Build, cell: Callable[..., Cell]) -> None:
    small = replace(target("cortex-m4"), memory_bytes=2048)
    builts = {name: build(name, small) for name in (CHECKPOINT, "litert_fp32", "litert_int8_full")}
    place = cell(small)
    judgement = Judgement(place, builts, place.measure(builts, "rapid"))
    with pytest.raises(NothingReleasable, match=r"litert_int8_full.*peak memory .*tensor arena.* over the budget of"):
        judgement.winner()
    (row,) = [row for row in judgement.rows if row.artifact == "litert_int8_full"]
    assert row.verdict == "failed_memory"
    assert row.memory_estimate is not None
    assert row.memory_estimate.bytes > 2048
    json.dumps(written(judgement.rows))
    fitting = cell("cortex-m4")
    assert Judgement(fitting, builts, fitting.measure(builts, "rapid")).winner().candidate.name == "litert_int8_full"
