"""ExecuTorch: programs lowered for the CPU (XNNPACK), for GPUs (Vulkan) and for Apple hardware (CoreML).

A session runs a program only if this machine's runtime has every backend that the program was lowered to: a Vulkan
or CoreML program is built here and stays unverified, with that reason.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from edge_assets.core.memory import Lifetime, peak_live_bytes
from edge_assets.core.one_sample import check_sizes, one_by_one
from edge_assets.core.session import Feeds, Session
from edge_assets.core.variant import CHECKPOINT, BuildRequest, Variant
from edge_assets.errors import ExportError, Refused, told
from edge_assets.later import np
from edge_assets.toolchains.coreml.expressed import with_strides
from edge_assets.toolchains.coreml.package import deployment_target
from edge_assets.toolchains.onnx.fixed_batch import describe as describe_static
from edge_assets.toolchains.onnx.fixed_batch import fixed
from edge_assets.toolchains.pytorch.calling import example_inputs, load_network

if TYPE_CHECKING:
    import torch
    from executorch.devtools.backend_debug.delegation_info import DelegationInfo
    from executorch.exir import ExecutorchProgramManager
    from executorch.exir.backend.partitioner import Partitioner
    from executorch.exir.schema import Operator
    from executorch.runtime import Program
    from torch.export import ExportedProgram
    from torch.fx import Node

    from edge_assets.spec.model import ModelSpec, Tensor
    from edge_assets.targets import Target

FILE = "model.pte"
METHOD = "forward"
LINEAR = ("aten.linear.default", "aten.addmm.default", "aten.mm.default", "aten.matmul.default")
LOOKUP = "aten.embedding.default"
NOT_OPERATORS = ("getitem", "alloc")  # of a graph's call_function nodes
TOOLS = ("torch", "executorch", "torchao")
IMAGE_RANK = 4  # NCHW
IsUsable: TypeAlias = Callable[[Sequence[int]], bool]  # whether a scheme takes a weight of that shape


# --- sessions ------------------------------------------------------------------------------------------


class ExecuTorchSession:
    """A program in ExecuTorch's runtime, one sample at a time."""

    def __init__(
        self,
        program: Program,
        inputs: Sequence[str],
        outputs: Sequence[str],
    ) -> None:
        self.program = program  # the method does not keep it alive
        self.method = program.load_method(METHOD)
        self.inputs = inputs
        self.outputs = outputs
        self.shapes = {}
        for i, name in enumerate(inputs):
            self.shapes[name] = self.method.metadata.input_tensor_meta(i).sizes()

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        check_sizes(feeds, self.shapes)
        return one_by_one(self.run_one, feeds)

    def run_one(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """Outputs for one sample, as the model takes it."""
        import torch

        tensors = [torch.from_numpy(np.asarray(feeds[name], order="C")) for name in self.inputs]
        results = self.method.execute(tensors)
        outputs = {}
        for name, tensor in zip(self.outputs, results, strict=True):
            outputs[name] = tensor.numpy().copy()
        return outputs


def open_session(
    path: Path,
    *,
    threads: int,
    inputs: Sequence[str],
    outputs: Sequence[str],
    backends: Sequence[str] = (),
) -> Session:
    """Load a program. `threads` is set for the whole process. Raises Refused naming a backend that is not here."""
    import executorch.kernels.quantized  # noqa: F401  # registers what a partly delegated int8 graph needs
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
    from executorch.runtime import Runtime

    runtime = Runtime.get()
    missing = [name for name in backends if not runtime.backend_registry.is_available(name)]
    if missing:
        raise Refused(
            f"the program is lowered to {', '.join(missing)}, which ExecuTorch's runtime on this machine does not "
            f"have: it can be built here, and run only on a device that has it"
        )
    _unsafe_reset_threadpool(threads)
    return ExecuTorchSession(runtime.load_program(path), inputs, outputs)


# --- export and lowering -------------------------------------------------------------------------------


def export(model: torch.nn.Module, spec: ModelSpec) -> ExportedProgram:
    """The model as an ATen graph with static shapes and a batch of one. Raises Refused and ExportError."""
    import torch

    try:
        example = example_inputs(fixed(spec), batch=1)
        return torch.export.export(model, example, strict=False)
    except Exception as error:  # torch.export raises many types; each is the user's model's problem
        raise ExportError(f"torch.export failed: {told(error)}") from error


def export_checkpoint(request: BuildRequest) -> ExportedProgram:
    """The checkpoint's model, exported."""
    return export(load_network(request.spec, request.source), request.spec)


def lower(exported: ExportedProgram, partitioners: list[Partitioner], request: BuildRequest) -> dict[str, Any]:
    """Write the program lowered with `partitioners`, in their order; its facts.

    Raises Refused naming operators that no kernel computes, or if the backend took nothing, and ExportError.
    """
    activations = activation_bytes(exported)  # before lowering, which rewrites the graph
    lowered = _lowered(exported, partitioners)
    program, delegation = lowered.program, lowered.delegation
    (plan,) = program.executorch_program.execution_plan
    _check_kernels(_operator_names(plan.operators))
    path = request.output / FILE
    path.write_bytes(program.buffer)
    backends = sorted({delegate.id for delegate in plan.delegates})
    if not backends:
        raise Refused(
            "the backend took no operator of this graph, so the program would be another one's under its name"
        )
    return {
        **describe_static(request.spec),
        "signature": _signature(fixed(request.spec)),
        "delegation": _delegation(delegation, backends),
        "memory_estimate": {
            "bytes": path.stat().st_size + activations,
            "how": "program file plus peak live activations in fp32 at batch 1, because ExecuTorch's Python binding "
            "loads PyTorch, which no device does",
        },
        "session": {"backends": backends},
    }


@dataclass(frozen=True)
class Lowered:
    """A program for ExecuTorch's runtime, and which operators the partitioners' backends took."""

    program: ExecutorchProgramManager
    delegation: DelegationInfo


def _lowered(exported: ExportedProgram, partitioners: list[Partitioner]) -> Lowered:
    from executorch.devtools.backend_debug import get_delegation_info
    from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower

    try:
        edge = to_edge_transform_and_lower(
            exported,
            partitioner=partitioners,
            compile_config=EdgeCompileConfig(_check_ir_validity=False),
        )
        delegation = get_delegation_info(edge.exported_program().graph_module)
        program = edge.to_executorch(ExecutorchBackendConfig(extract_delegate_segments=True))
    except Exception as error:  # passes and backends raise many types
        raise _explained(error) from error
    return Lowered(program, delegation)


def activation_bytes(exported: ExportedProgram) -> int:
    """Peak of live activations of an exported graph, executed in its order: inputs and every operator's outputs."""
    import torch

    fed = set(exported.graph_signature.user_inputs)
    order = {node: step for step, node in enumerate(exported.graph.nodes)}
    lifetimes = []
    for node, step in order.items():
        value = node.meta.get("val")
        is_parameter = node.op == "placeholder" and node.name not in fed
        if not isinstance(value, torch.Tensor) or is_parameter:
            continue
        last = max((order[user] for user in node.users), default=step)
        size_bytes = value.numel() * value.element_size()
        lifetimes.append(Lifetime(size_bytes, first=step, last=last))
    return peak_live_bytes(lifetimes)


def linear_share(exported: ExportedProgram, usable: IsUsable = lambda _shape: True) -> float:
    """Share of the parameters' elements that linear layers multiply by, where `usable` takes the weight's shape.

    Of the parameters that are computed with: tables of embeddings, which are only looked up, do not count.
    """
    shapes = _parameter_shapes(exported)
    linear: set[str] = set()
    for node in exported.graph.nodes:
        if node.op == "call_function" and str(node.target) in LINEAR:
            linear.update(_usable_weights(node, shapes, usable))
    multiplied = sum(math.prod(shapes[name]) for name in linear)
    computed_with = sum(math.prod(shape) for shape in shapes.values())
    return multiplied / max(1, computed_with)


def _parameter_shapes(exported: ExportedProgram) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters that are computed with, by the name of their node."""
    parameters = exported.graph_signature.inputs_to_parameters
    shapes: dict[str, tuple[int, ...]] = {}
    for node in exported.graph.nodes:
        is_only_looked_up = all(str(user.target) == LOOKUP for user in node.users)
        if node.name in parameters and not is_only_looked_up:
            shapes[node.name] = tuple(node.meta["val"].shape)
    return shapes


def _usable_weights(
    node: Node,
    shapes: Mapping[str, tuple[int, ...]],
    usable: IsUsable,
) -> list[str]:
    """Names of the parameters of two axes and more that a node takes and `usable` accepts."""
    found = []
    for source in node.all_input_nodes:
        shape = shapes.get(source.name, ())
        if len(shape) > 1 and usable(shape):
            found.append(source.name)
    return found


def _operator_names(operators: Iterable[Operator]) -> list[str]:
    """As the runtime's kernels are named: with the overload, where there is one."""
    names = []
    for operator in operators:
        names.append(f"{operator.name}.{operator.overload}" if operator.overload else operator.name)
    return names


def _check_kernels(operators: Sequence[str]) -> None:
    """Raises Refused naming operators that no kernel of the runtime computes: such a program cannot be loaded."""
    import executorch.kernels.quantized  # noqa: F401
    from executorch.runtime import Runtime

    known = Runtime.get().operator_registry.operator_names
    if missing := sorted(set(operators) - set(known)):
        raise _unsupported(missing)


def _unsupported(operators: Sequence[str]) -> Refused:
    return Refused(
        f"no ExecuTorch backend or portable kernel computes {', '.join(operators)}. The nearest alternative format is "
        f"LiteRT (litert_fp32); else replace the operator in the model."
    )


def _explained(error: BaseException) -> Refused | ExportError:
    if missing := re.search(r"Missing out variants: \{(.*)\}", str(error)):
        return _unsupported([name.strip(" '") for name in missing[1].split(",")])
    return ExportError(f"lowering to ExecuTorch failed: {told(error)}")


def _signature(spec: ModelSpec) -> dict[str, list[dict[str, Any]]]:
    return {
        "inputs": [_entry(tensor) for tensor in spec.inputs],
        "outputs": [_entry(tensor) for tensor in spec.outputs],
    }


def _entry(tensor: Tensor) -> dict[str, object]:
    is_image = len(tensor.shape) == IMAGE_RANK and tensor.batch_axis == 0
    shape = [1 if axis == "batch" else axis for axis in tensor.shape]
    return {
        "name": tensor.name,
        "dtype": tensor.dtype,
        "shape": shape,
        "layout": "NCHW" if is_image else "as in PyTorch",
    }


def _delegation(info: DelegationInfo, backends: list[str]) -> dict[str, Any]:
    delegated = nodes = 0
    by_operator = {}
    for name, entry in sorted(info.delegation_by_operator.items()):
        if name in NOT_OPERATORS:
            continue
        count = entry.delegated + entry.non_delegated
        delegated += entry.delegated
        nodes += count
        by_operator[name] = f"{entry.delegated} of {count}"
    return {
        "delegate": ", ".join(backends),
        "partitions": info.num_delegated_subgraphs,
        "delegated_nodes": delegated,
        "nodes": nodes,
        "by_operator": by_operator,
    }


# --- float programs ------------------------------------------------------------------------------------


def build_xnnpack(request: BuildRequest) -> Mapping[str, Any]:
    """The float model, its operators taken by XNNPACK as far as it has them."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    return lower(export_checkpoint(request), [XnnpackPartitioner()], request)


def build_vulkan(request: BuildRequest) -> Mapping[str, Any]:
    """The float model, its operators taken by Vulkan compute shaders as far as there are any."""
    from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner

    return lower(export_checkpoint(request), [VulkanPartitioner()], request)


def build_coreml(request: BuildRequest) -> Mapping[str, Any]:
    """The model in fp16, its operators taken by CoreML, for the target's oldest system version."""
    import coremltools
    from executorch.backends.apple.coreml.compiler import CoreMLBackend
    from executorch.backends.apple.coreml.partition import CoreMLPartitioner

    specs = CoreMLBackend.generate_compile_specs(
        compute_precision=coremltools.precision.FLOAT16,
        minimum_deployment_target=coremltools.target[request.parameters["deployment_target"]],
    )
    program = with_strides(export_checkpoint(request))
    return lower(program, [CoreMLPartitioner(compile_specs=specs)], request)


def parameters(spec: ModelSpec, _target: Target) -> dict[str, object]:
    """The static inputs, at a batch of one. The architecture's source is among the recipe's inputs."""
    return {"batch": 1, "inputs": [asdict(tensor) for tensor in fixed(spec).inputs]}


def _coreml_parameters(spec: ModelSpec, target: Target) -> dict[str, object]:
    return parameters(spec, target) | {"deployment_target": deployment_target(target)}


FP32 = Variant(
    name="executorch_fp32",
    description="ExecuTorch program in fp32 for arm64 CPUs, lowered to XNNPACK.",
    format="executorch",
    precision="fp32",
    source=CHECKPOINT,
    runtime="executorch",
    build=build_xnnpack,
    parameters=parameters,
    code_version="1",
    tools=TOOLS,
    kinds=("executorch", "pytorch"),
    extra="executorch",
    process="executorch",
)
VULKAN = replace(
    FP32,
    name="executorch_vulkan",
    description="ExecuTorch program in fp32 for GPUs, lowered to Vulkan: built here, to be verified on a device.",
    build=build_vulkan,
)
COREML = replace(
    FP32,
    name="executorch_coreml",
    description="ExecuTorch program in fp16 lowered to CoreML: built anywhere, to be verified on Apple hardware.",
    precision="fp16",
    build=build_coreml,
    parameters=_coreml_parameters,
    tools=(*TOOLS, "coremltools"),
    extra="apple",
)
