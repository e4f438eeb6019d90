"""PyTorch static int8: FX graph mode quantization with the engine of the target (x86 or qnnpack), as TorchScript."""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edge_assets.core.axes import example_parameters
from edge_assets.core.scheme import Method, Scheme, granularity_of
from edge_assets.core.variant import CHECKPOINT, BuildRequest, Variant
from edge_assets.errors import ExportError, Refused, told
from edge_assets.hashing import Json
from edge_assets.toolchains.onnx.calibration import BATCH, batches, sample_count
from edge_assets.toolchains.onnx.graph import LEAST_SHARE
from edge_assets.toolchains.pytorch.calling import example_inputs, is_adapted, load_network
from edge_assets.toolchains.pytorch.session import in_order

if TYPE_CHECKING:
    import torch
    from torch.ao.quantization import QConfigMapping

    from edge_assets.spec.model import ModelSpec
    from edge_assets.targets import Target

FILE = "model.pt"
TAKES = "PyTorch's static int8 takes convolutions and linear layers alone; use onnx_int8_dynamic"
WITHOUT_TRANSPOSED = ("x86", "fbgemm")  # engines whose int8 transposed convolutions give wrong numbers: those stay fp32


def build(request: BuildRequest) -> Mapping[str, Any]:
    """Observe, convert and trace. Raises Refused if FX cannot trace the model, or if nothing changed."""
    import torch
    from torch.ao.quantization.quantize_fx import convert_fx

    engine = request.parameters["engine"]
    if engine not in torch.backends.quantized.supported_engines:
        raise ExportError(f"this PyTorch build has no '{engine}' quantized engine")
    before = torch.backends.quantized.engine
    model = load_network(request.spec, request.source)
    if is_adapted(model):
        raise Refused(
            "FX traces networks that take tensors by position and return a tensor or a flat tuple of them, and this "
            "one takes keywords or returns something else; use onnx_int8_static"
        )
    check_kinds(model, TAKES)
    elements = sum(parameter.numel() for parameter in model.parameters())
    example = example_inputs(request.spec)
    names = [tensor.name for tensor in request.spec.inputs]
    observers = qconfig_mapping(
        engine,
        method=request.parameters["method"],
        per_channel=request.parameters["per_channel"],
        reduce_range=request.parameters["reduce_range"],
    )
    try:
        torch.backends.quantized.engine = engine
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            prepared = _prepared(model, observers, example)
            for batch in batches(request.calibration, BATCH):
                prepared(*in_order(batch, names))
            converted = convert_fx(prepared)
            changed = sum("quantized" in type(module).__module__ for module in converted.modules())
            if not changed:
                raise Refused("no module of this model was changed, so the result would be fp32 under an int8 name")
            _check_share(converted, elements)
            traced = torch.jit.trace(converted, example, check_trace=False)
            torch.jit.save(torch.jit.freeze(traced.eval()), request.output / FILE)
    finally:
        torch.backends.quantized.engine = before
    samples = sample_count(request.calibration)
    facts = {"recipe": request.parameters["recipe"], "quantized_nodes": changed, "calibration_samples": samples}
    return facts | {"session": {"engine": engine}}


def _check_share(converted: "torch.nn.Module", elements: int) -> None:
    """Raises Refused where most of the network's weights stayed as they were, as those of recurrent layers do."""
    int8 = 0
    for module in converted.modules():
        weight = getattr(module, "weight", None)
        if callable(weight):  # quantized modules pack theirs, and unpack it when asked
            int8 += weight().numel()
    share = int8_share(int8, elements)
    if share < LEAST_SHARE:
        raise too_little(f"{100 * share:.0f}", TAKES)


def too_little(percent: str, takes: str) -> Refused:
    """What a scheme says that leaves most weights as they were; `takes` is what it has int8 for, and what to use."""
    return Refused(
        f"{percent} % of the bytes of the weights would be int8 (at least {100 * LEAST_SHARE:.0f} % needed): {takes}"
    )


def check_kinds(model: "torch.nn.Module", takes: str) -> None:
    """Raises Refused where embeddings and recurrent layers alone hold too much for a scheme, before it observes."""
    import torch

    stays = torch.nn.Embedding | torch.nn.EmbeddingBag | torch.nn.RNNBase
    floating: set[torch.nn.Parameter] = set()
    others: set[torch.nn.Parameter] = set()
    for module in model.modules():
        held = floating if isinstance(module, stays) else others
        held.update(module.parameters(recurse=False))
    elements = sum(parameter.numel() for parameter in floating | others)
    float_elements = sum(parameter.numel() for parameter in floating - others)  # a tied table is a layer's too
    share = int8_share(elements - float_elements, elements)
    if share < LEAST_SHARE:
        raise too_little(f"at most {100 * share:.0f}", takes)


def int8_share(int8: int, elements: int) -> float:
    """The share of the bytes that are int8, where so many of all elements are and the others are fp32."""
    return int8 / max(1, int8 + 4 * (elements - int8))


def _prepared(
    model: "torch.nn.Module",
    observers: "QConfigMapping",
    example: tuple["torch.Tensor", ...],
) -> "torch.fx.GraphModule":
    """The traced model with observers. Raises Refused if FX cannot trace it."""
    from torch.ao.quantization.quantize_fx import prepare_fx

    try:
        prepared: torch.fx.GraphModule = prepare_fx(model, observers, example)
    except Exception as error:  # FX runs the model's own code on proxies, which can raise anything
        raise Refused(
            f"FX cannot trace this model for static quantization: {told(error)}. Use onnx_int8_static, which "
            f"quantizes the exported graph"
        ) from error
    return prepared


def qconfig_mapping(
    engine: str,
    method: str,
    per_channel: bool,
    reduce_range: bool,
) -> "QConfigMapping":
    """The engine's defaults with our observers: the same calibration method, granularity and range as ONNX.

    PyTorch's default HistogramObserver searches the range bin by bin and takes ten times as long.
    """
    import torch
    from torch.ao.quantization import QConfig, get_default_qconfig_mapping, observer

    ranges = observer.MinMaxObserver if method == "minmax" else observer.HistogramObserver
    activation = ranges.with_args(dtype=torch.quint8, reduce_range=reduce_range)
    if per_channel:
        weight = observer.PerChannelMinMaxObserver.with_args(dtype=torch.qint8, qscheme=torch.per_channel_symmetric)
    else:
        weight = observer.MinMaxObserver.with_args(dtype=torch.qint8, qscheme=torch.per_tensor_symmetric)
    mapping: QConfigMapping = get_default_qconfig_mapping(engine)
    mapping.set_global(QConfig(activation, weight))
    if engine in WITHOUT_TRANSPOSED:
        for kind in (torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d):
            mapping.set_object_type(kind, None)
    return mapping


def parameters(spec: "ModelSpec", target: "Target") -> dict[str, Json]:
    """The quantized engine, and granularity, range and observer."""
    flavour = target.quantization
    observer: Method = "minmax" if spec.calibration.method == "minmax" else "histogram"
    scheme = Scheme(
        precision="int8",
        kind="static",
        form="torch",
        engine=flavour.torch_engine,
        granularity=granularity_of(flavour.per_channel),
        has_reduced_range=flavour.reduce_range,
        method=observer,
    )
    return {
        "recipe": scheme.name,
        "engine": flavour.torch_engine,
        "per_channel": flavour.per_channel,
        "reduce_range": flavour.reduce_range,
        "method": observer,
        "batch": BATCH,
        **example_parameters(spec),
    }


VARIANT = Variant(
    name="torch_int8",
    description="PyTorch static int8 with the target's quantized engine, a self-contained TorchScript file.",
    format="torchscript",
    precision="int8",
    source=CHECKPOINT,
    runtime="torchscript",
    build=build,
    parameters=parameters,
    code_version="2",
    tools=("torch",),
    kinds=("pytorch",),
    needs=frozenset({"calibration"}),
    mlflow_flavor="pytorch",
)
