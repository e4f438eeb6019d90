"""PyTorch static int8: FX graph mode quantization with the engine of the target (x86 or qnnpack), as TorchScript."""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edge_assets.core.checkpoint import load_model
from edge_assets.core.scheme import Method, Scheme, granularity_of
from edge_assets.core.variant import CHECKPOINT, BuildRequest, Variant
from edge_assets.errors import ExportError, Refused, told
from edge_assets.toolchains.onnx.calibration import BATCH, batches
from edge_assets.toolchains.onnx.export import example_inputs

if TYPE_CHECKING:
    from edge_assets.spec.model import ModelSpec
    from edge_assets.targets import Target

FILE = "model.pt"


def build(request: BuildRequest) -> Mapping[str, Any]:
    """Observe, convert and trace. Raises Refused if FX cannot trace the model, or if nothing changed."""
    import torch
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    engine = request.parameters["engine"]
    if engine not in torch.backends.quantized.supported_engines:
        raise ExportError(f"this PyTorch build has no '{engine}' quantized engine")
    before = torch.backends.quantized.engine
    model = load_model(request.spec.architecture, request.source)
    example = example_inputs(request.spec)
    names = [tensor.name for tensor in request.spec.inputs]
    feeds = request.calibration()
    try:
        torch.backends.quantized.engine = engine
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            try:
                prepared = prepare_fx(model, qconfig_mapping(request.parameters), example)
            except Exception as error:  # FX runs the model's own code on proxies, which can raise anything
                raise Refused(
                    f"FX cannot trace this model for static quantization: {told(error)}. Use onnx_int8_static, which "
                    f"quantizes the exported graph"
                ) from error
            for batch in batches(feeds, BATCH):
                prepared(*(torch.from_numpy(batch[name]) for name in names))
            converted = convert_fx(prepared)
            changed = sum("quantized" in type(module).__module__ for module in converted.modules())
            if not changed:
                raise Refused("no module of this model was changed, so the result would be fp32 under an int8 name")
            scripted = torch.jit.freeze(torch.jit.trace(converted, example, check_trace=False).eval())
            torch.jit.save(scripted, request.output / FILE)
    finally:
        torch.backends.quantized.engine = before
    samples = len(next(iter(feeds.values())))
    facts = {"recipe": request.parameters["recipe"], "quantized_nodes": changed, "calibration_samples": samples}
    return facts | {"session": {"engine": engine}}


def qconfig_mapping(parameters: Mapping[str, Any]) -> Any:
    """The engine's defaults with our observers: the same calibration method, granularity and range as ONNX.

    PyTorch's default HistogramObserver searches the range bin by bin and takes ten times as long.
    """
    import torch
    from torch.ao.quantization import QConfig, get_default_qconfig_mapping, observer

    ranges = observer.MinMaxObserver if parameters["method"] == "minmax" else observer.HistogramObserver
    activation = ranges.with_args(dtype=torch.quint8, reduce_range=parameters["reduce_range"])
    if parameters["per_channel"]:
        weight = observer.PerChannelMinMaxObserver.with_args(dtype=torch.qint8, qscheme=torch.per_channel_symmetric)
    else:
        weight = observer.MinMaxObserver.with_args(dtype=torch.qint8, qscheme=torch.per_tensor_symmetric)
    return get_default_qconfig_mapping(parameters["engine"]).set_global(QConfig(activation, weight))


def parameters(spec: "ModelSpec", target: "Target") -> dict[str, Any]:
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
    code_version="1",
    tools=("torch",),
    kinds=("pytorch",),
    needs=frozenset({"calibration"}),
    mlflow_flavor="pytorch",
)
