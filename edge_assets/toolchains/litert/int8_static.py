"""Static int8 for LiteRT: int8 weights per channel, int8 activations with ranges observed on the calibration data.

litert_int8_static  float inputs and outputs, quantized at the edge of the graph: what apps call
litert_int8_full    int8 inputs and outputs: what microcontrollers run (litert_micro)

Calibration takes the smallest and largest value of every tensor over the whole set, sample after sample;
ai-edge-quantizer has no other method that a graph of this kind can use.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_assets.core.one_sample import check_sizes
from edge_assets.core.scheme import Scheme
from edge_assets.core.variant import BuildRequest
from edge_assets.errors import Refused
from edge_assets.toolchains.litert import convert as litert
from edge_assets.toolchains.litert import session as litert_session
from edge_assets.toolchains.litert.weights import changed_share
from edge_assets.toolchains.onnx.calibration import batches, first_samples, sample_count
from edge_assets.toolchains.onnx.fixed_batch import input_shapes

if TYPE_CHECKING:
    from ai_edge_quantizer.qtyping import QSV, ModelQuantizationRecipe

    from edge_assets.spec.model import ModelSpec
    from edge_assets.targets import Target

AT_ONCE = 64  # samples that the calibrator, which wants a list, is given
CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
CONVERTED = {"FLOAT32", "INT8"}  # the types of activations
SCHEME = Scheme(
    precision="int8",
    kind="static",
    form="litert",
    activations="s8",
    weights="s8",
    granularity="perchannel",
    method="minmax",
)


def build(request: BuildRequest) -> Mapping[str, Any]:
    """Calibrate and quantize. Raises Refused if no weight changed."""
    from ai_edge_quantizer import quantizer

    recipe = _recipe(request.parameters["integer_interface"])
    path = request.output / litert.FILE
    ranges = _observe(request, recipe)
    quantized = quantizer.Quantizer(str(request.source), recipe).quantize(ranges)
    quantized.export_model(str(path))
    litert.inline_buffers(path)
    _read_in_own_type(path)
    if not changed_share(path, "INT8"):
        raise Refused("no weight of this graph was changed, so the result would be fp32 under an int8 name")
    return litert.describe(path, request.spec) | {
        "recipe": request.parameters["recipe"],
        "calibration_samples": sample_count(request.calibration),
    }


def _read_in_own_type(path: Path) -> None:
    """Let integer operators read integers, float operators floats, where the quantizer confused them.

    It gives an output of the graph a conversion of its own, and hands that to the last operator as well if this one
    reads the output: its mark for outputs, -1, is also Python's index of the last operator.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(path))
    graph = model.subgraphs[0]
    kinds = [flatbuffer_utils.type_to_name(tensor.type) for tensor in graph.tensors]
    before = {}  # what a conversion reads, by what it gives
    for operator in graph.operators:
        if flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex) in CONVERSIONS:
            before[int(operator.outputs[0])] = int(operator.inputs[0])
    is_changed = False
    for operator in graph.operators:
        if flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex) in CONVERSIONS:
            continue
        wanted = kinds[operator.outputs[0]]
        for position, tensor in enumerate(operator.inputs):
            source = before.get(int(tensor))
            if source is not None and {kinds[tensor], kinds[source]} == CONVERTED and kinds[source] == wanted:
                operator.inputs[position] = source
                is_changed = True
    if is_changed:
        flatbuffer_utils.write_model(model, str(path))


def _recipe(integer_interface: bool) -> "ModelQuantizationRecipe":
    from ai_edge_quantizer import qtyping, recipe
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.recipe_manager import RecipeManager

    manager = RecipeManager()
    manager.load_quantization_recipe(recipe.static_wi8_ai8())
    if not integer_interface:
        for edge in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
            manager.add_quantization_config(".*", edge, algorithm_key=AlgorithmName.NO_QUANTIZE)
    return manager.get_quantization_recipe()


def _observe(request: BuildRequest, recipe: "ModelQuantizationRecipe") -> dict[str, "QSV"]:
    """Every tensor's smallest and largest value. The quantizer's own default is a moving average of them."""
    from ai_edge_quantizer.calibrator import Calibrator
    from ai_edge_quantizer.recipe_manager import RecipeManager
    from ai_edge_quantizer.utils import qsv_utils

    first = first_samples(request.calibration, 1)
    check_sizes(first, input_shapes(request.spec))
    interpreter = litert_session.interpreter(request.source)
    (key,) = interpreter.get_signature_list()
    ports = litert_session.ports(
        interpreter.get_signature_runner(key).get_input_details(),
        names=list(first),
        channels_last=litert.channels_last(request.spec),
    )
    manager = RecipeManager()
    manager.load_quantization_recipe(recipe)
    calibrator = Calibrator(str(request.source), num_threads=1, qsv_update_func=qsv_utils.min_max_update)
    samples = batches(request.calibration, 1)
    while several := list(islice(samples, AT_ONCE)):
        encoded = []
        for one in several:
            encoded.append({name: ports[name].encode(array) for name, array in one.items()})
        calibrator.calibrate({key: encoded}, manager)
    ranges: dict[str, QSV] = calibrator.get_model_qsvs()
    return ranges


def parameters(_spec: "ModelSpec", _target: "Target", integer_interface: bool = False) -> dict[str, object]:
    """The recipe, and whether inputs and outputs are int8."""
    scheme = replace(SCHEME, has_integer_interface=integer_interface)
    return {"recipe": scheme.name, "integer_interface": integer_interface}


STATIC = replace(
    litert.QUANTIZED,
    name="litert_int8_static",
    description="Calibrated int8 weights and activations; float inputs and outputs.",
    precision="int8",
    build=build,
    parameters=parameters,
    needs=frozenset({"calibration"}),
)
