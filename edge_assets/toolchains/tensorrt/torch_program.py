"""Torch-TensorRT: `torch_tensorrt.compile` turns the parts of a PyTorch model that TensorRT knows into engines.

What it does not know stays in PyTorch, so this also runs models that no engine can hold. It compiles on the GPU
itself, in fp16, with inputs and outputs in the declared types.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_assets.core.session import Session, refuse_layout
from edge_assets.core.variant import CHECKPOINT, BuildRequest, Variant
from edge_assets.errors import Refused
from edge_assets.hashing import Json
from edge_assets.targets.catalog import parse_size
from edge_assets.targets.machine import this_machine
from edge_assets.toolchains.pytorch.calling import load_network
from edge_assets.toolchains.pytorch.eager import CudaSession, as_tuple
from edge_assets.toolchains.tensorrt.engine import profile

if TYPE_CHECKING:
    import torch

    from edge_assets.spec.model import ModelSpec
    from edge_assets.targets import Target

FILE = "model.ep"
EXTRA = "torch-tensorrt"


def open_session(
    path: Path,
    *,
    threads: int,
    inputs: Sequence[str],
    outputs: Sequence[str],
    largest_batch: int,
) -> Session:
    """Load the compiled program. Raises Refused without a CUDA GPU. `threads` does not apply."""
    del threads
    import torch
    import torch_tensorrt

    if not torch.cuda.is_available():
        raise Refused("Torch-TensorRT programs run on a CUDA GPU, and PyTorch sees none here")
    program = torch_tensorrt.load(str(path)).module()
    return CudaSession(program, inputs, outputs, largest_batch)


def build(request: BuildRequest) -> Mapping[str, Any]:
    """Compile on this machine's GPU. Raises Refused where it is not the target's."""
    import torch
    import torch_tensorrt

    parameters = request.parameters
    if parameters["gpu"] is None:
        raise Refused("torch_tensorrt.compile needs the target's GPU: run the build on it")
    refuse_layout(request.spec, "Torch-TensorRT")
    model = half_inside(load_network(request.spec, request.source)).cuda()
    inputs = []
    for tensor in parameters["inputs"]:
        shaped = torch_tensorrt.Input(
            min_shape=tensor["min"],
            opt_shape=tensor["opt"],
            max_shape=tensor["max"],
            name=tensor["name"],
            dtype=getattr(torch, tensor["dtype"]),
        )
        inputs.append(shaped)
    compiled = torch_tensorrt.compile(
        model,
        ir="dynamo",
        inputs=inputs,
        use_explicit_typing=True,
        workspace_size=parameters["workspace_bytes"],
    )
    torch_tensorrt.save(compiled, str(request.output / FILE), inputs=inputs)
    return {"recipe": "fp16", "session": {"largest_batch": parameters["inputs"][0]["max"][0]}}


def half_inside(model: "torch.nn.Module") -> "torch.nn.Module":
    """The model in half precision behind float32 inputs and outputs."""
    import torch

    class HalfInside(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner.half().eval()

        def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            halves = []
            for tensor in inputs:
                halves.append(tensor.half() if tensor.is_floating_point() else tensor)
            results = []
            for result in as_tuple(self.inner(*halves)):
                results.append(result.float() if result.is_floating_point() else result)
            return tuple(results)

    return HalfInside(model)


def parameters(spec: "ModelSpec", target: "Target") -> dict[str, Json]:
    """Shapes, workspace, and the GPU of this machine where it is the target's."""
    machine = this_machine()
    return {
        "inputs": profile(spec, target),
        "workspace_bytes": parse_size(target.options["workspace"], f"target {target.name}.options.workspace"),
        "compute_capability": target.options["compute_capability"],
        "gpu": machine.gpus[0] if machine.matches(target) else None,
    }


VARIANT = Variant(
    name="torch_tensorrt",
    description="Torch-TensorRT in fp16: TensorRT engines inside a PyTorch program, PyTorch for the rest.",
    format="torch_tensorrt",
    precision="fp16",
    source=CHECKPOINT,
    runtime="torch_tensorrt",
    build=build,
    parameters=parameters,
    code_version="1",
    tools=("torch", "torch-tensorrt"),
    kinds=("tensorrt", "pytorch"),
    extra=EXTRA,
    process="torch_tensorrt",
)
