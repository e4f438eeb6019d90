"""Int8 ExecuTorch programs for XNNPACK, by PyTorch's export based quantization (PT2E) of torchao.

executorch_int8_static   convolutions and linear layers, ranges observed on the calibration data
executorch_int8_dynamic  linear layers, activations quantized at run time: refused where they hold too few weights
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from edge_assets.core.one_sample import check_sizes
from edge_assets.core.scheme import Method, Scheme
from edge_assets.core.variant import BuildRequest
from edge_assets.errors import Refused
from edge_assets.toolchains.executorch import program as executorch
from edge_assets.toolchains.onnx.calibration import batches, first_samples, sample_count
from edge_assets.toolchains.onnx.fixed_batch import fixed, input_shapes
from edge_assets.toolchains.onnx.graph import LEAST_SHARE
from edge_assets.toolchains.pytorch.calling import example_inputs, load_network
from edge_assets.toolchains.pytorch.int8_static import check_kinds, int8_share, too_little

if TYPE_CHECKING:
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer

    from edge_assets.spec.model import ModelSpec
    from edge_assets.targets import Target

TAKES = "XNNPACK's static int8 takes convolutions and linear layers alone. Use litert_int8_dynamic or litert_fp16."
SMALLEST_SCALE = 2**-12  # XNNPACK's kernels lose precision below


def build_static(request: BuildRequest) -> Mapping[str, Any]:
    """Observe the calibration data, convert and lower. Raises Refused if nothing was quantized."""
    check_kinds(load_network(request.spec, request.source), TAKES)
    facts = _build(request, dynamic=False)
    return facts | {"calibration_samples": sample_count(request.calibration)}


def build_dynamic(request: BuildRequest) -> Mapping[str, Any]:
    """Quantize linear layers and lower. Raises Refused where they hold too little of the model."""
    share = executorch.linear_share(executorch.export_checkpoint(request))
    check_linear(share, "dynamic int8", "executorch_int8_static or litert_int8_dynamic")
    return _build(request, dynamic=True)


def check_linear(share: float, scheme: str, instead: str) -> None:
    """Raises Refused where the scheme, which XNNPACK has for linear layers alone, would change too little."""
    if share < LEAST_SHARE:
        raise Refused(
            f"linear layers that {scheme} can take hold {100 * share:.0f} % of the weights (at least "
            f"{100 * LEAST_SHARE:.0f} % needed), and XNNPACK has it for linear layers alone. Use {instead}."
        )


def _build(request: BuildRequest, dynamic: bool) -> dict[str, Any]:
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    minmax = not dynamic and request.parameters["method"] == "minmax"
    chosen = quantizer(dynamic=dynamic, minmax=minmax)
    program = executorch.export_checkpoint(request)
    module = program.module()
    express_prelu(module)
    elements = _give_each_use_its_own(module)
    prepared = prepare_pt2e(module, chosen)
    with torch.inference_mode():
        for sample in _observed(request, dynamic):
            prepared(*sample)
        converted = convert_pt2e(prepared)
    if not dynamic:
        _check_share(converted, elements)
    facts = {"recipe": request.parameters["recipe"], "quantize_nodes": quantize_nodes(converted)}
    return lower_quantized(converted, request, dynamic) | facts


def _give_each_use_its_own(module: torch.fx.GraphModule) -> int:
    """Let each operator have its own copy of its weights, where a layer is called several times; elements of all.

    The quantizer passes by an operator whose weights are another's already, and XNNPACK cannot load what has them in
    int8 for one and in floating point for others. A bias of two would be quantized by the scale of one.
    """
    import torch

    elements = 0
    for node in list(module.graph.nodes):
        if node.op != "get_attr":
            continue
        tensor: object = attrgetter(str(node.target))(module)
        if not isinstance(tensor, torch.nn.Parameter):
            continue
        elements += tensor.numel() * len(node.users)
        for user in list(node.users)[1:]:
            name = f"{node.name}_of_{user.name}"
            module.register_parameter(name, torch.nn.Parameter(tensor.detach().clone(), requires_grad=False))
            with module.graph.inserting_before(user):
                own = module.graph.get_attr(name)
            own.meta = dict(node.meta)
            user.replace_input_with(node, own)
    module.recompile()
    return elements


def express_prelu(module: torch.fx.GraphModule) -> None:
    """Write PReLU as relu(x) + weight * (x - relu(x)), which XNNPACK has.

    Its partitioner does not take PReLU, which is decomposed then, and behind an int8 convolution such a program
    expects channels in another place than XNNPACK gives them.
    """
    import torch

    aten = torch.ops.aten
    for node in list(module.graph.nodes):
        if node.target is not aten.prelu.default or node.args[1].op != "get_attr":
            continue
        given, weight = node.args
        slopes: torch.Tensor = attrgetter(str(weight.target))(module).detach()
        if slopes.numel() > 1:  # one for each channel
            slopes = slopes.reshape(-1, *[1] * (node.meta["val"].ndim - 2))
        name = f"{node.name}_slopes"
        module.register_parameter(name, torch.nn.Parameter(slopes.clone(), requires_grad=False))
        with module.graph.inserting_before(node):
            factors = module.graph.get_attr(name)
            above = module.graph.call_function(aten.relu.default, (given,))
            below = module.graph.call_function(aten.sub.Tensor, (given, above))
            scaled = module.graph.call_function(aten.mul.Tensor, (below, factors))
            whole = module.graph.call_function(aten.add.Tensor, (above, scaled))
        for made in (above, below, scaled, whole):
            made.meta = dict(node.meta)
        factors.meta = {**weight.meta, "val": weight.meta["val"].reshape(slopes.shape)}
        node.replace_all_uses_with(whole)
        module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _check_share(converted: torch.fx.GraphModule, elements: int) -> None:
    """Raises Refused where most of the network's weights stayed as they were, as those of recurrent layers do."""
    import torch

    int8 = 0
    for node in converted.graph.nodes:
        if node.op != "get_attr":
            continue
        tensor: object = attrgetter(str(node.target))(converted)
        if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.int8:
            int8 += tensor.numel()
    share = int8_share(int8, elements)
    if int8 and share < LEAST_SHARE:  # where none is, `quantize_nodes` says it
        raise too_little(f"{100 * share:.0f}", TAKES)


def _observed(request: BuildRequest, dynamic: bool) -> Iterator[tuple[torch.Tensor, ...]]:
    """Samples that the prepared model is run on: all of the calibration data, or for dynamic int8 one example."""
    import torch

    if dynamic:
        yield example_inputs(fixed(request.spec), batch=1)
        return
    check_sizes(first_samples(request.calibration, 1), input_shapes(request.spec))
    for one in batches(request.calibration, 1):
        yield tuple(torch.from_numpy(one[tensor.name]) for tensor in request.spec.inputs)


def quantize_nodes(converted: torch.fx.GraphModule) -> int:
    """How many nodes quantize or dequantize. Raises Refused if none does."""
    count = sum("quantize_" in str(node.target) for node in converted.graph.nodes)
    if not count:
        raise Refused("no node of this graph was changed, so the result would be fp32 under an int8 name")
    return count


def lower_quantized(
    converted: torch.fx.GraphModule,
    request: BuildRequest,
    dynamic: bool = False,
) -> dict[str, Any]:
    """Write a converted model lowered to XNNPACK, at a batch of one; its facts. Raises Refused and ExportError."""
    import torch
    from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    example = example_inputs(fixed(request.spec), batch=1)
    exported = torch.export.export(converted, example, strict=False)
    kind = ConfigPrecisionType.DYNAMIC_QUANT if dynamic else ConfigPrecisionType.STATIC_QUANT
    # the int8 partitioner first, then the float one for what is left
    partitioners = [
        XnnpackPartitioner(config_precisions=kind, per_op_mode=dynamic),
        XnnpackPartitioner(),
    ]
    return executorch.lower(exported, partitioners, request)


def quantizer(
    dynamic: bool = False,
    minmax: bool = False,
    trained: bool = False,
) -> XNNPACKQuantizer:
    """XNNPACK's quantizer: int8 activations per tensor, int8 weights per channel.

    Static ranges are those of torchao's histogram, of `minmax`, or of fake quantization where they are `trained`.
    """
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e import MinMaxObserver

    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=dynamic, is_qat=trained)
    if minmax:
        observer = MinMaxObserver.with_args(eps=SMALLEST_SCALE)
        activation = replace(config.input_activation, observer_or_fake_quant_ctr=observer)
        config = replace(config, input_activation=activation, output_activation=activation)
    return XNNPACKQuantizer().set_global(config)


def _static_parameters(spec: ModelSpec, target: Target) -> dict[str, object]:
    # torchao has two observers that fit: all else than minmax means its histogram, which minimizes the squared error
    method: Method = "minmax" if spec.calibration.method == "minmax" else "histogram"
    scheme = Scheme(
        precision="int8",
        kind="static",
        form="pt2e",
        activations="s8",
        weights="s8",
        granularity="perchannel",
        method=method,
    )
    recipe = {"recipe": scheme.name, "method": method}
    return executorch.parameters(spec, target) | recipe


def _dynamic_parameters(spec: ModelSpec, target: Target) -> dict[str, object]:
    scheme = Scheme(precision="int8", kind="dynamic", form="pt2e", weights="s8", granularity="perchannel")
    return executorch.parameters(spec, target) | {"recipe": scheme.name}


STATIC = replace(
    executorch.FP32,
    name="executorch_int8_static",
    description="ExecuTorch program with calibrated int8 convolutions and linear layers, lowered to XNNPACK.",
    precision="int8",
    build=build_static,
    parameters=_static_parameters,
    needs=frozenset({"calibration"}),
    code_version="3",
    seconds=1800,  # PT2E prepares and observes node by node in Python
)
DYNAMIC = replace(
    executorch.FP32,
    name="executorch_int8_dynamic",
    description="ExecuTorch program with int8 linear layers, activations quantized at run time; for transformers.",
    precision="int8",
    build=build_dynamic,
    parameters=_dynamic_parameters,
    code_version="3",
)
