"""TensorRT engines: what they are built for, the kit that rebuilds them, and who refuses them.

Engines are built for real, ahead of time, without a GPU. What needs one is at the end, and skipped without.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edge_assets.core.runtimes import RUNTIMES
from edge_assets.core.types import Built
from edge_assets.core.variant import CHECKPOINT, BuildRequest
from edge_assets.errors import InvalidSpec, Refused
from edge_assets.families.nvidia import NVIDIA
from edge_assets.pipeline import identity
from edge_assets.pipeline.cell import Cell
from edge_assets.pipeline.judgement import Judgement
from edge_assets.spec.model import Tensor
from edge_assets.targets.machine import gpus
from edge_assets.targets.project import target
from edge_assets.toolchains.tensorrt import engine as tensorrt
from edge_assets.toolchains.tensorrt import graph_memory
from edge_assets.toolchains.tensorrt import kit as tensorrt_kit
from edge_assets.toolchains.tensorrt import session as tensorrt_session
from edge_assets.toolchains.tensorrt.kit import EnginePlatform, KitError
from resources import checkpoints
from resources.store import ArtifactStore
from tests.tiny.spec import TINY

FP32, FP16, INT8 = (f"tensorrt_engine_{precision}" for precision in ("fp32", "fp16", "int8"))
SPEC = replace(TINY, gates=replace(TINY.gates, max_size_bytes=None))
Build = Callable[..., Built]


def cell_of(on: str, store: ArtifactStore, checkpoint_file: Path) -> Cell:
    checkpoint = checkpoints.register(store, SPEC.name, str(checkpoint_file))
    return Cell(SPEC, NVIDIA, target(on), checkpoint, store, log=lambda _line: None)


@pytest.fixture(scope="module")
def build(store: ArtifactStore, checkpoint_file: Path) -> Build:
    """Builds a variant of the tiny model for a target, its sources first; memoized by the store."""

    def make(name: str, on: str) -> Built:
        return cell_of(on, store, checkpoint_file).build(name)

    return make


@pytest.fixture
def kit_of(build: Build, store: ArtifactStore, tmp_path: Path) -> Callable[[str, str], Path]:
    """A private copy of a built kit."""

    def copy(name: str, on: str) -> Path:
        artifact = build(name, on).artifact
        assert artifact is not None
        return Path(shutil.copytree(store.checkout(artifact), tmp_path / f"{name}-{on}"))

    return copy


def script(kit: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The kit's script in a new process that cannot see the product."""
    command = [sys.executable, "-I", str(kit / tensorrt_kit.SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=120)


# --- engines and kits ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "on", "capability"), [(FP16, "t4", "7.5"), (FP32, "l4", "8.9"), (INT8, "rtx-5090", "12.0")]
)
def test_engine_says_what_it_was_built_for(
    build: Build, kit_of: Callable[[str, str], Path], name: str, on: str, capability: str
) -> None:
    kit = kit_of(name, on)
    described = tensorrt_kit.read_kit(kit)
    plan, place = tensorrt_kit.read_engine(kit, described)
    assert {path.name for path in kit.iterdir()} == {
        *("kit.json", "model.onnx", "model.engine", "sample.npz", "build_engine.py")
    }
    assert place == EnginePlatform("tensorrt-rtx", version("tensorrt-rtx"), capability, tensorrt_kit.this_system())
    assert len(plan) > 10_000
    assert described["workspace_bytes"] >= 2**31
    engine = f"engine built ahead of time for compute capability {capability} by tensorrt-rtx {place.version}"
    assert build(name, on).facts.not_measured == f"not measured: no device attached; {engine}"


def test_targets_of_one_compute_capability_share_one_engine(build: Build) -> None:
    first, second = build(FP16, "l4"), build(FP16, "rtx-4090")
    assert second.reused
    assert first.build.sha256 == second.build.sha256


@pytest.mark.parametrize(("on", "capability"), [("h100", "9.0"), ("jetson-orin", "8.7")])
def test_where_no_builder_can_the_kit_is_the_artifact(
    build: Build, kit_of: Callable[[str, str], Path], on: str, capability: str
) -> None:
    built = build(INT8, on)
    kit = kit_of(INT8, on)
    assert not (kit / tensorrt_kit.ENGINE).exists()
    assert built.facts.not_measured is not None
    assert built.facts.not_measured.startswith("not measured: no device attached; the engine needs its GPU: ")
    assert built.facts.needs_device is not None
    assert f"7.5, 8.0, 8.6, 8.9, 12.0, 12.1, not {capability}" in built.facts.needs_device
    with pytest.raises(KitError, match="this kit has no engine: .* Build it with: python build_engine.py"):
        tensorrt_kit.read_engine(kit, tensorrt_kit.read_kit(kit))
    assert built.parity is not None, "its graph is verified all the same"


def test_a_precision_that_the_gpu_lacks_is_refused(build: Build) -> None:
    built = build(FP32, "t4")
    assert built.artifact is None
    assert built.build.refused == (
        "GPUs of compute capability 7.5 are offered fp16 and int8, not fp32: use tensorrt_engine_fp16"
    )


def test_quantized_graph_has_tensorrts_flavour(build: Build, store: ArtifactStore) -> None:
    artifact = build("onnx_int8_tensorrt", "l4").artifact
    assert artifact is not None
    graph = onnx.load(store.checkout(artifact)).graph
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    scaled = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    zeros = [tensors[node.input[2]] for node in scaled]
    assert {zero.dtype for zero in zeros} == {np.dtype(np.int8)}
    assert not any(zero.any() for zero in zeros), "symmetric"
    weights = [node for node in scaled if node.op_type == "DequantizeLinear" and node.input[0] in tensors]
    assert sorted(tensors[node.input[1]].size for node in weights) == [10, 16, 32, 32], "one scale per output channel"
    heavy = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert {tensors[node.input[2]].dtype for node in heavy} == {np.dtype(np.float16)}, "biases are not quantized"
    read = {name for node in graph.node if node.op_type == "QuantizeLinear" for name in node.input[:1]}
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    assert {made_by.get(name) for name in read}.isdisjoint({"Conv", "Gemm"}), "outputs are not quantized"
    assert build(INT8, "l4").recipe == "int8_static_qdq_s8s8_symmetric_perchannel_minmax_fp16"


def test_profile_is_the_targets_batches_and_the_specs_axes() -> None:
    text = replace(TINY, inputs=(Tensor("tokens", "int64", ("batch", "length")),), preprocessing=None)
    (entry,) = tensorrt.profile(text, target("l4"))
    assert entry == {"name": "tokens", "dtype": "int64", "min": [1, 1], "opt": [8, 128], "max": [32, 512]}
    (entry,) = tensorrt.profile(replace(text, axis_ranges={"length": (4, 16, 64)}), target("jetson-orin"))
    assert [entry["min"], entry["opt"], entry["max"]] == [[1, 4], [4, 16], [4, 64]]
    with pytest.raises(InvalidSpec, match=r"axis_ranges: width: \(1, 2, 3\) must be ascending sizes .*\(length\)"):
        replace(text, axis_ranges={"width": (1, 2, 3)})
    with pytest.raises(InvalidSpec, match="axis_ranges: length"):
        replace(text, axis_ranges={"length": (8, 4, 16)})


def test_unsupported_operator_names_itself_the_format_and_an_alternative(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Det", ["image"], ["logits"], name="volume")],
        "determinant",
        [value("image", onnx.TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [value("logits", onnx.TensorProto.FLOAT, ["batch", 1])],
    )
    source = tmp_path / "model.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), source)
    variant = next(v for v in NVIDIA.variants if v.name == FP32)
    parameters = variant.parameters(TINY, target("l4"))
    output = tmp_path / "kit"
    output.mkdir()
    request = BuildRequest(TINY, parameters, source, output, print)
    with pytest.raises(Refused, match=r"operator Det \(node 'volume'\).*TensorRT has no form of it. ONNX Runtime runs"):
        variant.build(request)


def test_memory_of_a_graph_is_what_is_alive_at_once(tmp_path: Path) -> None:
    value, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    weight = onnx.numpy_helper.from_array(np.ones((4, 100), np.float32), "w")
    graph = onnx.helper.make_graph(
        [node("MatMul", ["x", "w"], ["wide"]), node("Relu", ["wide"], ["y"]), node("ReduceSum", ["y"], ["z"])],
        "g",
        [value("x", onnx.TensorProto.FLOAT, ["batch", 4])],
        [value("z", onnx.TensorProto.FLOAT, None)],
        [weight],
    )
    path = tmp_path / "g.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)]), path)
    assert graph_memory.weights_and_peak(path, {"x": (10, 4)}) == (1600, 2 * 4 * 1000)  # wide and y, batch 10


def test_memory_counts_what_a_later_node_or_the_caller_still_needs_and_no_folded_weights(tmp_path: Path) -> None:
    value, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    weight = onnx.numpy_helper.from_array(np.ones((4, 100), np.float32), "w")
    nodes = [
        node("Neg", ["w"], ["folded"]),
        node("MatMul", ["x", "folded"], ["wide"]),  # x stays for the last node: 40 + 1000 values
        node("Relu", ["wide"], ["early"]),  # + 1000: an output, which stays to the end
        node("ReduceSum", ["early"], ["z"], keepdims=0),  # wide is gone
        node("Add", ["x", "z"], ["late"]),
    ]
    outputs = [value(name, onnx.TensorProto.FLOAT, None) for name in ("early", "late")]
    graph = onnx.helper.make_graph(nodes, "g", [value("x", onnx.TensorProto.FLOAT, ["batch", 4])], outputs, [weight])
    path = tmp_path / "g.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)]), path)
    assert graph_memory.weights_and_peak(path, {"x": (10, 4)}) == (1600, 4 * (40 + 1000 + 1000))


# --- refusing ------------------------------------------------------------------------------------------

AHEAD = EnginePlatform("tensorrt-rtx", "1.7.1", "8.9", "Linux x86_64")
TUNED = EnginePlatform("tensorrt", "11.4.1", "8.9", "Linux x86_64", gpu="NVIDIA L4")
ON_L4 = replace(AHEAD, gpu="NVIDIA L4")


@pytest.mark.parametrize(
    ("engine", "here", "reason"),
    [
        (AHEAD, ON_L4, None),
        (AHEAD, replace(ON_L4, gpu="NVIDIA GeForce RTX 4090"), None),
        (TUNED, TUNED, None),
        (AHEAD, replace(ON_L4, gpu="Tesla T4", compute_capability="7.5"), "8.9, this GPU (Tesla T4) has 7.5"),
        (TUNED, replace(TUNED, gpu="NVIDIA GeForce RTX 4090"), "on a NVIDIA L4, this GPU is a NVIDIA GeForce"),
        (AHEAD, replace(ON_L4, version="1.8.0"), "needs tensorrt-rtx 1.7.1, here is tensorrt-rtx 1.8.0"),
        (AHEAD, replace(ON_L4, builder="tensorrt"), "needs tensorrt-rtx 1.7.1, here is tensorrt 1.7.1"),
        (AHEAD, replace(ON_L4, system="Windows AMD64"), "built for Linux x86_64, this machine is Windows AMD64"),
        (AHEAD, replace(ON_L4, system="Linux aarch64"), "built for Linux x86_64, this machine is Linux aarch64"),
    ],
)  # fmt: skip
def test_engine_is_refused_in_another_place(engine: EnginePlatform, here: EnginePlatform, reason: str | None) -> None:
    found = tensorrt_kit.refusal(engine, here)
    assert found is None if reason is None else found is not None and reason in found


def test_running_on_the_wrong_gpu_is_refused_before_tensorrt_loads_it(
    kit_of: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Turing:
        def gpu(self) -> tuple[str, str]:
            return "Tesla T4", "7.5"

    def load(name: str) -> Any:
        raise AssertionError("TensorRT must not see the engine")

    monkeypatch.setattr(tensorrt_kit, "Cuda", Turing)
    monkeypatch.setattr(tensorrt_kit, "load_builder", load)
    kit = kit_of(FP16, "l4")
    with pytest.raises(Refused, match=r"compute capability 8.9, this GPU \(Tesla T4\) has 7.5. Build one here with"):
        tensorrt_session.open_session(kit, threads=1, inputs=["image"], outputs=["logits"])


# --- the kit's script ----------------------------------------------------------------------------------


def test_script_rebuilds_for_another_gpu_without_the_product(kit_of: Callable[[str, str], Path]) -> None:
    kit = kit_of(FP16, "h100")
    result = script(kit, "--compute-capability", "8.9")
    assert result.returncode == 0, result.stderr
    assert "built ahead of time for every GPU of compute capability 8.9 by tensorrt-rtx" in result.stdout
    _plan, place = tensorrt_kit.read_engine(kit, tensorrt_kit.read_kit(kit))
    assert place.compute_capability == "8.9"
    result = script(kit, "--compute-capability", "9.0")
    assert result.returncode == 1
    assert "cannot build for 9.0 without the GPU; it can for: 7.5, 8.0" in result.stderr


def test_script_refuses_damaged_files(kit_of: Callable[[str, str], Path]) -> None:
    kit = kit_of(FP16, "l4")
    with (kit / tensorrt_kit.ENGINE).open("ab") as file:
        file.write(b"x")
    assert "model.engine is not the kit's: sha256" in script(kit, "--check").stderr
    with (kit / tensorrt_kit.MODEL).open("ab") as file:
        file.write(b"x")
    assert "model.onnx is not the kit's: sha256" in script(kit, "--compute-capability", "8.9").stderr


@pytest.mark.skipif(bool(gpus()), reason="this machine has an NVIDIA GPU")
@pytest.mark.parametrize("arguments", [("--check",), ("--verify",), ("--time", "10"), ()], ids=" ".join)
def test_script_without_a_gpu_says_so(kit_of: Callable[[str, str], Path], arguments: tuple[str, ...]) -> None:
    result = script(kit_of(FP16, "l4"), *arguments)
    assert result.returncode == 1
    assert result.stderr == (
        "build_engine.py: there is no NVIDIA driver here, so no GPU to build for or to run on\n"
    )  # fmt: skip


# --- verification --------------------------------------------------------------------------------------


def test_off_the_target_the_kits_graph_is_verified_and_said_to_be(build: Build) -> None:
    built, other = build(FP16, "l4"), build(FP16, "a100")
    assert built.runtime == "kit_onnx"
    assert not RUNTIMES[built.runtime].is_the_targets
    assert "the kit's ONNX graph in ONNX Runtime on this machine's CPU" in RUNTIMES[built.runtime].verified_with
    assert built.build.sha256 != other.build.sha256
    assert built.evidence is not None
    assert other.evidence is not None
    assert built.evidence.recipe.sha256 == other.evidence.recipe.sha256, "the same graph is verified once"
    assert built.parity == build("onnx_fp16", "l4").parity
    assert other.evidence.reused


@pytest.mark.skipif(bool(gpus()), reason="this machine has an NVIDIA GPU")
def test_on_the_target_the_engine_itself_is_verified(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    before = build(FP16, "l4")
    monkeypatch.setattr(identity, "is_this_machine", lambda one, _targets: one == target("l4"))
    after = build(FP16, "l4")
    assert after.build.reused
    assert after.runtime == "tensorrt"
    assert after.evidence is not None
    assert before.evidence is not None
    assert after.evidence.recipe.sha256 != before.evidence.recipe.sha256
    assert after.unverified == "there is no NVIDIA driver here, so no GPU to build for or to run on"


@pytest.mark.skipif(bool(gpus()), reason="this machine has an NVIDIA GPU")
def test_on_the_target_nothing_that_ran_on_the_cpu_is_timed(
    build: Build, store: ArtifactStore, checkpoint_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "is_this_machine", lambda one, _targets: one == target("l4"))
    builts = {name: build(name, "l4") for name in (CHECKPOINT, FP16)}
    cell = cell_of("l4", store, checkpoint_file)
    judgement = Judgement(cell, builts, cell.measure(builts, "rapid"))
    rows = {row.artifact: row for row in judgement.rows}
    assert rows[FP16].verdict == "unverified"
    assert judgement.report().artifact is not None
    assert rows[CHECKPOINT].latency_ms is None
    assert rows[CHECKPOINT].peak_memory_bytes is None


def test_release_is_judged_on_what_is_known_and_runs_on_its_own(
    build: Build, store: ArtifactStore, checkpoint_file: Path, tmp_path: Path
) -> None:
    builts = {name: build(name, "t4") for name in (CHECKPOINT, *(variant.name for variant in NVIDIA.variants))}
    cell = cell_of("t4", store, checkpoint_file)
    judgement = Judgement(cell, builts, cell.measure(builts, "rapid"))
    rows = {row.artifact: row for row in judgement.rows}
    assert set(rows) == {CHECKPOINT, FP32, FP16, INT8, "torch_tensorrt"}, "ONNX graphs are no candidates"
    assert rows[FP32].verdict == "refused"
    assert rows["torch_tensorrt"].verdict in ("unavailable", "refused")
    (winner,) = (row for row in rows.values() if row.verdict == "released")
    assert winner.latency_ms is None
    assert winner.peak_memory_bytes is None
    assert winner.measured_on is None
    assert winner.not_measured is not None
    assert winner.not_measured.startswith("not measured: no device attached; engine built ahead of time")
    assert winner.verified_with == RUNTIMES["kit_onnx"].verified_with
    memory = next(gate.sentence for gate in winner.evidence if gate.name == "memory")
    assert "estimated: weights plus peak live activations of the unfused ONNX graph at batch 32" in memory
    released = judgement.release().artifact
    assert released is not None
    folder = Path(shutil.copytree(store.checkout(released), tmp_path / "shipped"))
    result = subprocess.run([sys.executable, "infer.py"], cwd=folder, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    kit = folder / json.loads((folder / "manifest.json").read_text())["file"]
    (kit / "onnxruntime.py").write_text("print('planted code ran')\n")
    (kit / "numpy.py").write_text("print('planted code ran')\n")
    planted = subprocess.run([sys.executable, "infer.py"], cwd=folder, capture_output=True, text=True, timeout=120)
    assert planted.returncode == 0, planted.stderr
    assert "planted" not in planted.stdout, planted.stderr
    assert f"not part of the release, and not used: {kit.name}/numpy.py, {kit.name}/onnxruntime.py" in planted.stderr
    alone = subprocess.run([sys.executable, "build_engine.py", "--check"], cwd=kit, capture_output=True, text=True)
    assert "planted" not in alone.stdout
    (kit / "kit.json").write_text((kit / "kit.json").read_text() + "\n")
    changed = subprocess.run([sys.executable, "infer.py"], cwd=folder, capture_output=True, text=True, timeout=120)
    assert changed.returncode == 1
    assert "kit.json is not the released file" in changed.stderr
    assert "say --rebuilt" in changed.stderr
    rebuilt = [sys.executable, "infer.py", "--rebuilt"]
    assert subprocess.run(rebuilt, cwd=folder, capture_output=True, text=True, timeout=120).returncode == 0
    if not gpus():
        assert "running model.onnx in ONNX Runtime on the CPU, not the engine" in result.stderr
        assert "largest difference from the outputs recorded at release: 0\n" in result.stdout


# --- missing toolchains --------------------------------------------------------------------------------


def test_missing_torch_tensorrt_is_named_with_its_extra(build: Build, uninstall: Callable[[str], None]) -> None:
    uninstall("torch-tensorrt")
    built = build("torch_tensorrt", "l4")
    assert built.facts.unavailable
    assert built.build.refused == "torch-tensorrt is not installed: pip install 'edge-assets[torch-tensorrt]'"


def test_missing_builder_takes_only_the_engines_with_it(build: Build, uninstall: Callable[[str], None]) -> None:
    uninstall("tensorrt-rtx")
    built = build(INT8, "a100")
    assert built.facts.unavailable
    assert built.build.refused == "tensorrt-rtx is not installed: pip install 'edge-assets[nvidia]'"
    assert build("onnx_int8_tensorrt", "a100").parity is not None


# --- on a GPU ------------------------------------------------------------------------------------------

on_a_gpu = pytest.mark.skipif(not gpus(), reason="no NVIDIA GPU here")


@on_a_gpu
@pytest.mark.parametrize("name", [FP16, INT8])
def test_script_builds_verifies_and_times_on_this_gpu(kit_of: Callable[[str, str], Path], name: str) -> None:
    kit = kit_of(name, "l4")
    built = script(kit)
    assert built.returncode == 0, built.stderr
    assert script(kit, "--check").returncode == 0
    verified = script(kit, "--verify")
    assert verified.returncode == 0, verified.stderr
    assert json.loads(verified.stdout)["snr_db"]["logits"] >= 20
    timed = json.loads(script(kit, "--time", "100").stdout)
    assert 0 < timed["engine_ms"]["p50"] <= timed["with_copies_ms"]["p50"]


@on_a_gpu
def test_engine_of_this_gpu_runs_more_samples_than_its_profile_holds(kit_of: Callable[[str, str], Path]) -> None:
    kit = kit_of(FP16, "l4")
    assert script(kit).returncode == 0
    session = tensorrt_session.open_session(kit, threads=1, inputs=["image"], outputs=["logits"])
    images = np.random.default_rng(0).random((70, 1, 8, 8), np.float32)
    whole = session.run({"image": images})["logits"]
    last = session.run({"image": images[64:]})["logits"]
    np.testing.assert_allclose(whole[64:], last, rtol=1e-2, atol=1e-2)
