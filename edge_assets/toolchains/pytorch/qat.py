"""Quantization-aware training: the checkpoint fine-tuned with int8 arithmetic in the forward pass (torchao PT2E).

qat_trained          the trained model, its int8 ranges among its weights: what both exports are made from
onnx_int8_qat        in QDQ form, in the flavour that the target's kernels are exact and fast with
executorch_int8_qat  lowered to XNNPACK

Training is the same for every target: symmetric int8 weights per channel and int8 activations per tensor, as XNNPACK
has them. ONNX takes another flavour by shifting stored integers and zero points together, which changes no value.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from edge_assets.core.architecture import build_architecture
from edge_assets.core.checkpoint import read_state
from edge_assets.core.scheme import Scheme, short_type
from edge_assets.core.session import refuse_layout
from edge_assets.core.variant import CHECKPOINT, BuildRequest, Variant
from edge_assets.errors import ExportError, Refused, told
from edge_assets.hashing import Json
from edge_assets.toolchains.executorch import program as executorch
from edge_assets.toolchains.executorch.int8 import express_prelu, lower_quantized, quantize_nodes, quantizer
from edge_assets.toolchains.onnx import export as onnx_format
from edge_assets.toolchains.onnx.compact import compact
from edge_assets.toolchains.onnx.flavour import retype
from edge_assets.toolchains.onnx.graph import quantized_nodes
from edge_assets.toolchains.pytorch import finetuning
from edge_assets.toolchains.pytorch.calling import example_inputs, load_network, plain
from edge_assets.toolchains.pytorch.folding import fold_batch_norm, unfolded_calls
from edge_assets.toolchains.pytorch.session import in_order

if TYPE_CHECKING:
    import torch

    from edge_assets.spec.model import ModelSpec
    from edge_assets.targets import Target

WEIGHTS, HISTORY, PLOT = "trained.safetensors", "history.json", "history.png"
EXECUTORCH_SCHEME = Scheme(
    precision="int8",
    kind="qat",
    form="pt2e",
    activations="s8",
    weights="s8",
    granularity="perchannel",
)
# the argument that tells an operator whether it is being trained
SWITCHES = {"aten.dropout.default": 2, "aten.dropout_.default": 2, "aten.batch_norm.default": 5}


# --- training ------------------------------------------------------------------------------------------


def build_trained(request: BuildRequest) -> Mapping[str, Any]:
    """Fine-tune from the checkpoint. Raises Refused if nothing would be quantized or no epoch was finished."""
    from safetensors.torch import save_file

    recipe = request.spec.finetuning
    assert recipe is not None and request.training is not None and request.kept is not None
    refuse_layout(request.spec, "quantization-aware training")
    model = load_network(request.spec, request.source)
    prepared = prepare(model, request.spec)
    samples = _samples(request)
    progress = finetuning.fine_tune(
        prepared,
        modes=_modes(prepared),
        samples=samples,
        outputs=[tensor.name for tensor in request.spec.outputs],
        classifies=request.parameters["classifies"],
        recipe=recipe,
        kept=request.kept,
        log=request.log,
    )
    state = {name: tensor.contiguous() for name, tensor in progress.best.items()}
    save_file(state, request.output / WEIGHTS)
    finetuning.write_history(progress, recipe, request.output / HISTORY)
    finetuning.draw(progress, request.output / PLOT)
    facts = {
        "recipe": request.parameters["recipe"],
        "training_samples": len(samples),
        "best_epoch": progress.best_epoch.number,
        "epochs": [asdict(epoch) for epoch in progress.history],
    }
    return facts | ({"stopped": progress.stopped} if progress.stopped else {})


def prepare(model: "torch.nn.Module", spec: "ModelSpec") -> "torch.fx.GraphModule":
    """The model as a graph with fake quantization, its BatchNorm folded, its axes dynamic.

    Raises Refused if nothing would be quantized, and ExportError.
    """
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e

    example = example_inputs(spec)
    shapes = onnx_format.dynamic_shapes(spec)
    try:
        exported = torch.export.export(model, example, dynamic_shapes=shapes, strict=False).module()
    except Exception as error:  # torch.export raises many types; each is the user's model's problem
        raise ExportError(f"torch.export failed: {told(error)}") from error
    fold_batch_norm(exported)
    if unfolded := unfolded_calls(exported):
        raise Refused(
            f"{unfolded[0]} is used by several calls with BatchNorms of their own behind them, which cannot be folded "
            f"into one weight for training. Give each call a convolution of its own, or use int8 without training."
        )
    _read_for_each_use(exported)
    prepared: torch.fx.GraphModule = prepare_qat_pt2e(exported, quantizer(trained=True))
    if not any(_is_fake_quantize(module) for module in prepared.modules()):
        raise Refused("no node of this graph would be quantized, so training would change the fp32 model alone")
    return prepared


def _read_for_each_use(model: "torch.fx.GraphModule") -> None:
    """Let each operator read its parameters by a node of its own, where a layer is called several times.

    The quantizer passes by an operator whose weights another has read already, so that it would run in floating
    point. The parameter stays one: all uses train it.
    """
    import torch

    for node in list(model.graph.nodes):
        if node.op != "get_attr" or not isinstance(attrgetter(str(node.target))(model), torch.nn.Parameter):
            continue
        for user in list(node.users)[1:]:
            with model.graph.inserting_before(user):
                own = model.graph.get_attr(node.target)
            own.meta = dict(node.meta)
            user.replace_input_with(node, own)
    model.recompile()


def converted(request: BuildRequest) -> "torch.fx.GraphModule":
    """The trained model with integer weights, its quantization explicit in the graph."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    # the architecture gives the graph; all its numbers are the trained ones
    model = plain(build_architecture(request.spec.architecture).eval(), request.spec)
    prepared = prepare(model, request.spec)
    finetuning.load_state(prepared, read_state(request.source / WEIGHTS))
    quantized: torch.fx.GraphModule = convert_pt2e(prepared)
    return quantized


def _is_fake_quantize(module: "torch.nn.Module") -> bool:
    from torchao.quantization.pt2e import FakeQuantizeBase

    return isinstance(module, FakeQuantizeBase)


def _modes(model: "torch.fx.GraphModule") -> finetuning.Modes:
    from torchao.quantization.pt2e import disable_observer, enable_observer

    def observe() -> None:
        switch(model, training=False)
        model.apply(enable_observer)

    def train() -> None:
        switch(model, training=True)
        model.apply(enable_observer)

    def fix() -> None:
        switch(model, training=False)
        model.apply(disable_observer)

    return finetuning.Modes(observe, train, fix)


def switch(model: "torch.fx.GraphModule", training: bool) -> None:
    """What `train()` is to a module: dropout, and what BatchNorm could not be folded.

    torchao's `move_exported_model_to_train` searches for subgraphs, which takes seconds, and makes every dropout one
    of probability 0.5.
    """
    for node in model.graph.nodes:
        place = SWITCHES.get(str(node.target))
        if place is not None:
            node.args = (*node.args[:place], training, *node.args[place + 1 :])
    model.recompile()


def _samples(request: BuildRequest) -> finetuning.Samples:
    import torch

    assert request.training is not None and request.spec.finetuning is not None
    names = [tensor.name for tensor in request.spec.inputs]
    inputs = in_order(request.training(), names)
    raw = request.training.raw()
    labels = torch.from_numpy(raw[request.spec.finetuning.labels])
    return finetuning.Samples(inputs, labels)


# --- exports -------------------------------------------------------------------------------------------


def build_onnx(request: BuildRequest) -> Mapping[str, Any]:
    """The trained model in QDQ form. Raises ExportError as every export to ONNX."""
    model = converted(request)
    exported = onnx_format.export(model, request.spec, request.parameters["opset"])
    retype(exported, request.parameters["activations"], request.parameters["weights"])
    compact(exported)
    path = request.output / onnx_format.FILE
    onnx_format.save(exported, path)
    return onnx_format.describe(path) | {
        "recipe": request.parameters["recipe"],
        "quantized_nodes": quantized_nodes(path),
    }


def build_executorch(request: BuildRequest) -> Mapping[str, Any]:
    """The trained model lowered to XNNPACK. Raises Refused and ExportError as every lowering."""
    model = converted(request)
    express_prelu(model)
    return lower_quantized(model, request) | {
        "recipe": request.parameters["recipe"],
        "quantize_nodes": quantize_nodes(model),
    }


def _has_recipe(spec: "ModelSpec") -> bool:
    return spec.finetuning is not None


def _trained_parameters(spec: "ModelSpec", _target: "Target") -> dict[str, Json]:
    assert spec.finetuning is not None
    recipe = asdict(spec.finetuning)
    del recipe["data"]  # the data are an input
    inputs = [asdict(tensor) for tensor in spec.inputs]
    outputs = [tensor.name for tensor in spec.outputs]
    return {
        "recipe": EXECUTORCH_SCHEME.name,
        "inputs": inputs,
        "outputs": outputs,
        "finetuning": recipe,
        "classifies": spec.trains_classifier,
    }


def _onnx_parameters(spec: "ModelSpec", target: "Target") -> dict[str, Json]:
    flavour = target.quantization
    # where 8-bit products of uint8 and int8 saturate, those of uint8 and uint8 do not: ONNX Runtime's exact kernels
    weights = "uint8" if flavour.reduce_range else flavour.weights
    scheme = Scheme(
        precision="int8",
        kind="qat",
        form="qdq",
        activations=short_type(flavour.activations),
        weights=short_type(weights),
        granularity="perchannel",
    )
    return onnx_format.export_parameters(spec, target) | {
        "recipe": scheme.name,
        "activations": flavour.activations,
        "weights": weights,
    }


TRAINED = Variant(
    name="qat_trained",
    description="Fine-tuned with int8 arithmetic in the forward pass: what the QAT exports are made from.",
    format="safetensors",
    precision="int8",
    source=CHECKPOINT,
    runtime="pytorch",
    build=build_trained,
    parameters=_trained_parameters,
    code_version="2",
    tools=("torch", "torchao", "executorch"),
    kinds=("pytorch",),
    is_candidate=False,
    is_model=False,
    needs=frozenset({"training"}),
    extra="executorch",
    offered=_has_recipe,
)
ONNX = replace(
    onnx_format.MODEL,
    name="onnx_int8_qat",
    description="The model of quantization-aware training in QDQ form, in the target's flavour.",
    precision="int8",
    source=TRAINED.name,
    build=build_onnx,
    parameters=_onnx_parameters,
    code_version="2",
    tools=(*TRAINED.tools, "onnx", "onnxscript"),
    extra="executorch",
    needs=frozenset({"architecture"}),
    offered=_has_recipe,
)
EXECUTORCH = replace(
    executorch.FP32,
    name="executorch_int8_qat",
    description="ExecuTorch program of the model of quantization-aware training, lowered to XNNPACK.",
    precision="int8",
    source=TRAINED.name,
    build=build_executorch,
    parameters=lambda spec, target: executorch.parameters(spec, target) | {"recipe": EXECUTORCH_SCHEME.name},
    code_version="2",
    seconds=1800,
    needs=frozenset({"architecture"}),
    offered=_has_recipe,
)
