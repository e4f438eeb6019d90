"""8da4w: linear layers with int4 weights in groups of 32 and activations quantized to int8 at run time, for XNNPACK.

What large language models on phones use. Only linear layers have it, so that a network of convolutions is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edge_assets.core.scheme import Scheme
from edge_assets.core.variant import BuildRequest
from edge_assets.toolchains.executorch import program as executorch
from edge_assets.toolchains.executorch.int8 import check_linear
from edge_assets.toolchains.pytorch.calling import load_network

if TYPE_CHECKING:
    from edge_assets.spec.model import ModelSpec
    from edge_assets.targets import Target

GROUP = 32  # input features that share a scale


def build(request: BuildRequest) -> Mapping[str, Any]:
    """Quantize linear layers and lower. Raises Refused where they hold too little of the model."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
    from torchao.quantization.granularity import PerGroup
    from torchao.utils import unwrap_tensor_subclass

    group: int = request.parameters["group"]

    def usable(shape: Sequence[int]) -> bool:
        return shape[-1] % group == 0

    def takes(module: torch.nn.Module, _name: str) -> bool:
        return isinstance(module, torch.nn.Linear) and usable(module.weight.shape)

    model = load_network(request.spec, request.source)
    share = executorch.linear_share(executorch.export(model, request.spec), usable)
    check_linear(share, f"8da4w in groups of {group}", "litert_int4 or executorch_int8_static")
    int4 = getattr(torch, "int4")  # noqa: B009  # PyTorch's stubs do not have it
    config = Int8DynamicActivationIntxWeightConfig(weight_dtype=int4, weight_granularity=PerGroup(group))
    quantize_(model, config, filter_fn=takes)
    unwrap_tensor_subclass(model)
    quantized = executorch.export(model, request.spec)
    facts = executorch.lower(quantized, [XnnpackPartitioner()], request)
    return facts | {"recipe": request.parameters["recipe"], "quantized_weights_share": round(share, 4)}


def parameters(spec: "ModelSpec", target: "Target") -> dict[str, object]:
    """The declared inputs and the group size."""
    scheme = Scheme(
        precision="int4",
        kind="dynamic",
        form="8da4w",
        activations="s8",
        weights="s4",
        granularity="group",
        block=GROUP,
    )
    recipe = {"recipe": scheme.name, "group": GROUP}
    return executorch.parameters(spec, target) | recipe


VARIANT = replace(
    executorch.FP32,
    name="executorch_8da4w",
    description="ExecuTorch program with int4 weights and dynamic int8 activations in linear layers, for transformers.",
    precision="int4",
    build=build,
    parameters=parameters,
    code_version="2",
)
