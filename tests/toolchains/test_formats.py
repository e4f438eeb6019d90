"""The template that every variant passes: built from a real checkpoint, run in its real runtime, compared.

A new format or scheme is covered by being listed in a family.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from edge_assets.core.runtimes import RUNTIMES
from edge_assets.core.types import Built
from edge_assets.core.variant import Variant
from edge_assets.core.verify import parity
from edge_assets.errors import ExportError, InvalidSpec
from edge_assets.families.families import FAMILIES
from edge_assets.families.family import Family
from edge_assets.pipeline.blocked import misnamed
from edge_assets.pipeline.cell import Cell
from edge_assets.spec.model import ModelSpec, Tensor
from edge_assets.targets.project import catalog, target
from edge_assets.toolchains.onnx.export import MODEL, OPTIMIZED, export, opset_of
from edge_assets.toolchains.onnx.float16 import sort_topologically
from resources import checkpoints
from resources.store import ArtifactStore
from tests import warm
from tests.conftest import ROOT, trained
from tests.facts import said
from tests.tiny.network import TinyNet
from tests.tiny.spec import MLP, TINY, TINY_QAT

# a search is refused where there is nothing to gain: it has tests of its own
VARIANTS = [
    (family, variant)
    for family in FAMILIES.values()
    for variant in family.variants
    if variant.is_model and "search" not in variant.needs
]
# which target a family's variants pass the template on
TARGETS = {
    "cpu": "graviton3",
    "nvidia": "l4",
    "apple": "iphone-15-pro",
    "android": "pixel-8",
    "microcontroller": "cortex-m4",
    "browser": "browser-wasm",
}
# refused for convolutions
LINEAR_ONLY = (
    *("onnx_int8_dynamic", "onnx_int4", "onnx_int4_hqq", "onnx_int4_gptq"),
    *("executorch_int8_dynamic", "executorch_8da4w"),
)
ELSEWHERE = ("executorch_vulkan", "executorch_coreml")  # built here, run on devices only
LONG = ("web_bundle",)  # to build; tests of the browser see all of it too
TRAINED = ("onnx_int8_qat", "executorch_int8_qat")  # offered where the spec has a fine-tuning recipe
SLOW_IMPORTS = {"executorch": ("torch", "executorch.runtime")}  # done once for the samples of these runtimes
TOOLCHAINS = ROOT / "edge_assets" / "toolchains"
RUN = """
import json, sys
from pathlib import Path
import numpy as np
import runtime

manifest = json.loads(sys.argv[2])
outputs = runtime.load(Path(sys.argv[1]), manifest)({"image": np.zeros((1, 1, 8, 8), np.float32)})
print(outputs["logits"].shape, "edge_assets" in sys.modules)
"""


@pytest.fixture(scope="module")
def build(
    store: ArtifactStore, checkpoint_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Built]:
    """Builds a variant of a spec for a target, its sources first; memoized by the store."""
    from tests.tiny.network import Mlp

    mlp = trained(Mlp, tmp_path_factory.mktemp("mlp") / "mlp.safetensors")
    files = {"tiny": checkpoint_file, "mlp": mlp}

    def make(name: str, spec: ModelSpec = TINY, on: str = "graviton3") -> Built:
        family = FAMILIES[target(on).family]
        checkpoint = checkpoints.register(store, spec.name, str(files[spec.name]))
        return Cell(spec, family, target(on), checkpoint, store, log=lambda _line: None).build(name)

    return make


def spec_of(variant: Variant) -> ModelSpec:
    """The spec that the template builds a variant of."""
    return MLP if variant.name in LINEAR_ONLY else TINY_QAT if variant.name in TRAINED else TINY


@pytest.mark.parametrize(
    ("family", "variant"),
    [
        pytest.param(family, variant, marks=[pytest.mark.slow] if variant.name in LONG else [])
        for family, variant in VARIANTS
    ],
    ids=lambda value: value.name,
)
def test_template(family: Family, variant: Variant, build: Callable[..., Built], store: ArtifactStore) -> None:
    spec = spec_of(variant)
    built = build(variant.name, spec, TARGETS[family.name])
    if built.facts.unavailable:
        pytest.skip(str(built.build.refused))
    assert built.artifact is not None, built.build.refused
    assert bool(built.unverified) == (variant.name in ELSEWHERE), built.unverified
    if built.unverified:
        return
    assert built.parity is not None
    assert built.accuracy is not None
    passed, sentence = parity.verdict(built.parity, variant.precision)
    assert passed, sentence
    assert set(built.parity.by_output["logits"]) == {"1", "2", "5"}
    assert built.accuracy.samples == 597
    assert abs(built.accuracy.drop_points) <= 2.0
    assert misnamed(built) is None
    assert built.build.recipe.tools, "a recipe without tool versions would survive an upgrade"
    stored = json.dumps(built.to_dict())
    assert json.dumps(Built.from_dict(json.loads(stored)).to_dict()) == stored
    assert build(variant.name, spec, TARGETS[family.name]).reused


@pytest.mark.parametrize(
    ("family", "variant"),
    [
        (family, variant)
        for family, variant in VARIANTS
        if RUNTIMES[variant.runtime].loader
        and variant.name not in ELSEWHERE
        and (variant.runtime != "coreml" or sys.platform == "darwin")
    ],
    ids=lambda value: value.name,
)
def test_a_new_process_runs_the_artifact_without_the_product(
    family: Family, variant: Variant, build: Callable[..., Built], store: ArtifactStore, tmp_path: Path
) -> None:
    built = build(variant.name, spec_of(variant), TARGETS[family.name])
    if built.facts.unavailable:
        pytest.skip(str(built.build.refused))
    assert built.artifact is not None
    shutil.copyfile(TOOLCHAINS / str(RUNTIMES[variant.runtime].loader), tmp_path / "runtime.py")
    options = target(TARGETS[family.name]).options
    session = {name: options[name] for name in RUNTIMES[variant.runtime].target_options}
    session |= said(built).get("session", {})
    manifest = json.dumps({"inputs": ["image"], "outputs": ["logits"], "session": session})
    (tmp_path / "sample.py").write_text(RUN)
    arguments = [str(store.checkout(built.artifact)), manifest]
    result = warm.run("sample", arguments, tmp_path, os.environ, SLOW_IMPORTS.get(variant.runtime, ()))
    assert result.stdout.strip().endswith("(1, 10) False"), result.stderr


def test_flavour_and_recipe_name_follow_the_target(build: Callable[..., Built]) -> None:
    targets = [entry.name for entry in catalog().values() if entry.family == "cpu"]
    names = {name: build("onnx_int8_static", on=name).recipe for name in targets}
    assert names == {
        "x86-64-avx2": "int8_static_qdq_u8s8_perchannel_reducedrange_minmax",
        "x86-64-vnni": "int8_static_qdq_u8s8_perchannel_minmax",
        "raspberry-pi-5": "int8_static_qdq_s8s8_perchannel_minmax",
        "graviton3": "int8_static_qdq_s8s8_perchannel_minmax",
    }


def test_quantized_types_and_axes_are_what_the_recipe_says(build: Callable[..., Built], store: ArtifactStore) -> None:
    for on, activation in (("x86-64-vnni", onnx.TensorProto.UINT8), ("graviton3", onnx.TensorProto.INT8)):
        artifact = build("onnx_int8_static", on=on).artifact
        assert artifact is not None
        graph = onnx.load(store.checkout(artifact)).graph
        tensors = {tensor.name: tensor for tensor in graph.initializer}
        kinds = {tensors[node.input[2]].data_type for node in graph.node if node.op_type == "QuantizeLinear"}
        assert kinds == {activation}
        weights = [t for t in tensors.values() if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4]
        scales = [tensors[n.input[1]] for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in tensors]
        assert len(weights) == 3
        assert {32, 16} <= {scale.dims[0] for scale in scales if scale.dims}, "one scale per output channel"


def test_reduced_range_keeps_weights_in_seven_bits(build: Callable[..., Built], store: ArtifactStore) -> None:
    largest = {}
    for on in ("x86-64-avx2", "x86-64-vnni"):
        artifact = build("onnx_int8_static", on=on).artifact
        assert artifact is not None
        tensors = onnx.load(store.checkout(artifact)).graph.initializer
        weights = [
            onnx.numpy_helper.to_array(t) for t in tensors if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1
        ]
        largest[on] = max(int(np.abs(weight.astype(int)).max()) for weight in weights)
    assert largest["x86-64-avx2"] <= 64 < largest["x86-64-vnni"]


def test_dynamic_int8_is_refused_where_convolutions_hold_the_weights(build: Callable[..., Built]) -> None:
    built = build("onnx_int8_dynamic")
    assert built.artifact is None
    assert built.evidence is None
    assert "of the weights are in convolutions" in (built.build.refused or "")
    assert "Use onnx_int8_static" in (built.build.refused or "")


def test_torch_int8_is_refused_where_fx_cannot_trace(build: Callable[..., Built]) -> None:
    built = build("torch_int8", replace(TINY, architecture="tests.tiny.signatures:Checking"))
    assert built.artifact is None
    assert "FX cannot trace this model" in (built.build.refused or "")
    assert "Use onnx_int8_static" in (built.build.refused or "")


def test_an_output_may_be_named_like_an_operator(build: Callable[..., Built]) -> None:
    named = replace(TINY, outputs=(Tensor("linear", "float32", ("batch", 10)),))
    onnx.checker.check_model(export(TinyNet().eval(), named, 20), full_check=True)


def test_the_exported_graph_quotes_no_source_and_no_path_of_this_machine() -> None:
    exported = export(TinyNet().eval(), TINY, 20)
    assert any(entry.value for node in exported.graph.node for entry in node.metadata_props), "modules' names are kept"
    content = exported.SerializeToString()
    assert str(ROOT).encode() not in content
    assert b"forward" not in content
    assert b"site-packages" not in content


def test_opset_is_read_back_and_a_lower_one_is_an_error_with_the_limit() -> None:
    model = TinyNet().eval()
    assert opset_of(export(model, TINY, 20)) == 20
    assert opset_of(export(model, TINY, 18)) == 18


def test_batch_is_dynamic(build: Callable[..., Built]) -> None:
    assert said(build("onnx_model"))["inputs"] == {"image": ["batch", 1, 8, 8]}


def test_unsupported_operator_is_named_with_its_module() -> None:
    from tests.tiny.network import Unsupported

    spec = replace(TINY, architecture="tests.tiny.network:Unsupported")
    with pytest.raises(
        ExportError, match=r"operator aten.special_bessel_j0.default in the model itself \(Unsupported\) has no"
    ):
        export(Unsupported().eval(), spec, 20)


def test_sorting_puts_every_node_after_what_it_reads(build: Callable[..., Built], store: ArtifactStore) -> None:
    artifact = build("onnx_model").artifact
    assert artifact is not None
    model = onnx.load(store.checkout(artifact))
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    sort_topologically(model)
    onnx.checker.check_model(model)


def test_a_worker_imports_only_its_runtime(build: Callable[..., Built]) -> None:
    code = (
        "import sys; from edge_assets.core.benchmark import worker; from edge_assets.core.session import Loadable; "
        "Loadable('onnx', '', {}).import_runtime(); "
        "print([m for m in ('torch', 'dagster', 'mlflow') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_a_variant_before_its_source_is_refused_as_the_family_is_made() -> None:
    with pytest.raises(InvalidSpec, match="onnx_optimized is made from onnx_model, which must stand before it"):
        Family("wrong", "", (OPTIMIZED, MODEL))
