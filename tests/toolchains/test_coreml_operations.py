"""Every operation that the CoreML evaluator claims, against PyTorch.

Small functions are converted to a package, which is saved, read back, evaluated, and compared with the function run by
PyTorch. What no PyTorch operator becomes is built in MIL itself. Together they cover the whole table.
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_assets.toolchains.coreml import evaluator as coreml_evaluator
from edge_assets.toolchains.coreml.evaluator import MilProgram
from edge_assets.toolchains.coreml.operations import OPERATIONS

Functions = Mapping[str, Callable[[Tensor, Tensor], Tensor]]

# by the name that a failure shows; x and y are [2, 4, 6, 6], y positive
ELEMENTWISE: Functions = {
    "abs": lambda x, y: x.abs(),
    "ceil": lambda x, y: x.ceil(),
    "floor": lambda x, y: x.floor(),
    "round": lambda x, y: x.round(),
    "sign": lambda x, y: x.sign(),
    "sqrt": lambda x, y: y.sqrt(),
    "rsqrt": lambda x, y: y.rsqrt(),
    "reciprocal": lambda x, y: (y * 1000).reciprocal(),  # MIL adds 1e-4 to what it divides by
    "square": lambda x, y: x.square(),
    "exp": lambda x, y: x.exp(),
    "exp2": lambda x, y: x.exp2(),
    "log": lambda x, y: y.log(),
    "sin": lambda x, y: x.sin(),
    "cos": lambda x, y: x.cos(),
    "tan": lambda x, y: (x / 4).tan(),
    "asin": lambda x, y: (x / 8).asin(),
    "acos": lambda x, y: (x / 8).acos(),
    "atan": lambda x, y: x.atan(),
    "sinh": lambda x, y: x.sinh(),
    "cosh": lambda x, y: x.cosh(),
    "tanh": lambda x, y: x.tanh(),
    "erf": lambda x, y: x.erf(),
    "clip": lambda x, y: x.clamp(-0.5, 0.7),
    "add": lambda x, y: x + y,
    "add a row": lambda x, y: x + y[:1, :, :1],
    "sub": lambda x, y: x - y,
    "sub from a number": lambda x, y: 2 - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "floor_div": torch.floor_divide,
    "remainder": torch.remainder,
    "pow": lambda x, y: y**1.7,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "where": lambda x, y: torch.where(x > y, x, y * 2),
    "masked_fill": lambda x, y: x.masked_fill(x < y - 1, -3.0),
    "to int and back": lambda x, y: (x * 3).int().float(),
}
LOGIC: Functions = {
    "eq": lambda x, y: (x.round() == y.round()).float(),
    "ne": lambda x, y: (x.round() != y.round()).float(),
    "lt": lambda x, y: (x < y).float(),
    "le": lambda x, y: (x <= y).float(),
    "gt": lambda x, y: (x > y).float(),
    "ge": lambda x, y: (x >= y).float(),
    "and": lambda x, y: torch.logical_and(x > 0, y > 1).float(),
    "or": lambda x, y: torch.logical_or(x > 0, y > 1).float(),
    "xor": lambda x, y: torch.logical_xor(x > 0, y > 1).float(),
    "not": lambda x, y: torch.logical_not(x > 0).float(),
}
ACTIVATIONS: Functions = {
    "relu": lambda x, y: x.relu(),
    "relu6": lambda x, y: functional.relu6(x * 4),
    "leaky_relu": lambda x, y: functional.leaky_relu(x, 0.2),
    "elu": lambda x, y: functional.elu(x, 1.3),
    "prelu": lambda x, y: functional.prelu(x, torch.tensor([0.1, 0.2, 0.3, 0.4])),
    "sigmoid": lambda x, y: x.sigmoid(),
    "hardsigmoid": lambda x, y: functional.hardsigmoid(x * 3),
    "hardswish": lambda x, y: functional.hardswish(x * 3),
    "silu": lambda x, y: functional.silu(x),
    "softplus": lambda x, y: functional.softplus(x),
    "gelu": lambda x, y: functional.gelu(x),  # of tanh's approximation coremltools makes the exact one: see below
    "softmax": lambda x, y: x.softmax(1),
    "log_softmax": lambda x, y: x.log_softmax(-1),
}
REDUCTIONS: Functions = {
    "mean": lambda x, y: x.mean((2, 3)),
    "mean kept": lambda x, y: x.mean(-1, keepdim=True),
    "sum": lambda x, y: x.sum(1),
    "amax": lambda x, y: x.amax((1, 2)),
    "amin": lambda x, y: x.amin(3, keepdim=True),
    "logsumexp": lambda x, y: x.logsumexp(1),
    "norm": lambda x, y: torch.linalg.vector_norm(x, dim=(1, 3)),
    "argmax": lambda x, y: x.argmax(1).float(),
    "argmin": lambda x, y: x.argmin(2, keepdim=True).float(),
    "topk": lambda x, y: torch.topk(x, 3, dim=-1)[0],
    "topk indices": lambda x, y: torch.topk(x, 2, dim=1, largest=False)[1].float(),
    "cumsum": lambda x, y: x.cumsum(2),
    "var": lambda x, y: x.var(1, correction=0),
}
SHAPES: Functions = {
    "reshape": lambda x, y: x.reshape(2, -1, 9) * 1.5,
    "flatten": lambda x, y: x.flatten(1),
    "permute": lambda x, y: x.permute(0, 2, 3, 1) * 2,
    "unsqueeze": lambda x, y: x[:, 0].unsqueeze(1).unsqueeze(-1) * 2,
    "squeeze": lambda x, y: x[:, :1].squeeze(1) * 2,
    "cat": lambda x, y: torch.cat([x, y, x], 1),
    "stack": lambda x, y: torch.stack([x, y], 2),
    "split": lambda x, y: torch.split(x, [1, 3], 1)[1] * 2,
    "chunk": lambda x, y: x.chunk(3, -1)[2] * y.chunk(3, -1)[0],
    "slice": lambda x, y: x[:, 1:, ::2, -3:-1] * 2,
    "select": lambda x, y: x[:, 2] * y[:, :1, -1, 3:4],
    "embedding": lambda x, y: functional.embedding((y[:, 0] * 2).long().clamp(0, 5), torch.arange(24.0).reshape(6, 4)),
    "index_select": lambda x, y: x.index_select(1, torch.tensor([3, 0, 3])),
    "gather": lambda x, y: x.gather(3, (y * 2).long().clamp(0, 5)),
    "repeat": lambda x, y: x.repeat(1, 2, 1, 3),
    "expand": lambda x, y: x[:, :1].expand(2, 5, 6, 6) * 2,
    "pad": lambda x, y: functional.pad(x, (1, 2, 0, 3), value=0.5),
    "pad reflect": lambda x, y: functional.pad(x, (1, 2, 2, 0), mode="reflect"),
    "pad replicate": lambda x, y: functional.pad(x, (1, 2, 2, 0), mode="replicate"),
    "pixel_shuffle": lambda x, y: functional.pixel_shuffle(x, 2),
    "nearest": lambda x, y: functional.interpolate(x, scale_factor=2.0, mode="nearest"),
    "bilinear": lambda x, y: functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False),
    "bilinear corners": lambda x, y: functional.interpolate(y, scale_factor=3.0, mode="bilinear", align_corners=True),
}


@cache  # made before the export, which takes them as constants
def _seeded(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + sum(shape)))


PRODUCTS: Functions = {
    "linear": lambda x, y: functional.linear(x, _seeded(5, 6), _seeded(5)),
    "matmul": lambda x, y: x @ y,
    "matmul transposed": lambda x, y: x @ y.transpose(-1, -2),
    "attention": lambda x, y: functional.scaled_dot_product_attention(x, y, x),
    "attention masked": lambda x, y: functional.scaled_dot_product_attention(x, y, y, attn_mask=(x[:, :1] - 1) * 3),
    "conv": lambda x, y: functional.conv2d(x, _seeded(8, 4, 3, 3), _seeded(8), padding=1),
    "conv strided, dilated": lambda x, y: functional.conv2d(x, _seeded(8, 4, 2, 2), stride=2, dilation=2),
    "conv same": lambda x, y: functional.conv2d(x, _seeded(8, 4, 2, 2), padding="same"),
    "conv depthwise": lambda x, y: functional.conv2d(x, _seeded(8, 1, 5, 3), padding=(2, 1), groups=4),
    "conv1d": lambda x, y: functional.conv1d(x[:, 0], _seeded(3, 6, 3), padding=2),
    "conv_transpose": lambda x, y: functional.conv_transpose2d(x, _seeded(4, 3, 3, 3), _seeded(3), stride=2, padding=1),
    "conv_transpose padded": lambda x, y: functional.conv_transpose2d(
        x, _seeded(4, 3, 3, 3), stride=2, padding=1, output_padding=1
    ),
    "max_pool": lambda x, y: functional.max_pool2d(x, 3, 2, 1),
    "max_pool ceil": lambda x, y: functional.max_pool2d(x, 2, 3, ceil_mode=True),
    "avg_pool": lambda x, y: functional.avg_pool2d(x, 3, 2, 1),
    "avg_pool unpadded mean": lambda x, y: functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "adaptive": lambda x, y: functional.adaptive_avg_pool2d(x, 1),
    "layer_norm": lambda x, y: functional.layer_norm(x, (6,), _seeded(6), _seeded(6, 1).flatten()),
    "layer_norm of two axes": lambda x, y: functional.layer_norm(x, (6, 6)),
    "instance_norm": lambda x, y: functional.instance_norm(x, weight=_seeded(4), bias=_seeded(4, 1).flatten()),
    "group_norm": lambda x, y: functional.group_norm(x, 2, _seeded(4), _seeded(4)),
    "batch_norm": lambda x, y: functional.batch_norm(x.relu(), _seeded(4), _seeded(4).exp(), _seeded(4), _seeded(4)),
}
FLEXIBLE: Functions = {
    "reshape": lambda x, y: x.reshape(x.shape[0], -1) * 2,
    "arange": lambda x, y: x[:, 0, 0, 0] * torch.arange(x.shape[0]),
    "full": lambda x, y: torch.cat([x[:, 0, 0], torch.full((x.shape[0], 3), 0.5)], 1),
    "expand": lambda x, y: _seeded(1, 6).expand(x.shape[0], 6) + y[:, 0, 0],
}
GROUPS = {
    "elementwise": ELEMENTWISE,
    "logic": LOGIC,
    "activations": ACTIVATIONS,
    "reductions": REDUCTIONS,
    "shapes": SHAPES,
    "products": PRODUCTS,
    "flexible": FLEXIBLE,
}
# a later release has other operations for some of these
CASES = [*((group, "iOS18") for group in GROUPS), ("shapes", "iOS16"), ("products", "iOS16")]


class Together(nn.Module):
    """Many functions of the same inputs: one conversion for all."""

    def __init__(self, functions: Functions) -> None:
        super().__init__()
        self.functions = list(functions.values())

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return tuple(function(x, y) for function in self.functions)


def saved(model: Any, folder: Path) -> MilProgram:
    package = folder / "operations.mlpackage"
    model.save(str(package))
    return coreml_evaluator.load(package)


@pytest.fixture(scope="module")
def seen() -> set[str]:
    """The operations that the tests of this module evaluated."""
    return set()


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 6, 6, generator=generator)
    return x, torch.rand(2, 4, 6, 6, generator=generator) * 2 + 0.3


def assert_same(program: MilProgram, inputs: tuple[Tensor, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Outputs are in order what `expected` holds by name."""
    found = program.run(dict(zip(program.inputs, inputs, strict=True)))
    for output, (name, value) in zip(program.outputs, expected.items(), strict=True):
        assert found[output].shape == value.shape, name
        difference = (found[output].float() - value.float()).abs().max().item()
        assert difference <= 2e-5 * max(1.0, value.abs().max().item()), f"{name}: {difference}"


@pytest.mark.parametrize(("group", "release"), CASES)
def test_what_pytorch_becomes_computes_the_same(
    group: str, release: str, inputs: tuple[Tensor, Tensor], seen: set[str], tmp_path: Path
) -> None:
    import coremltools

    functions = GROUPS[group]
    expected = {name: function(*inputs) for name, function in functions.items()}
    batch = torch.export.Dim("batch", min=1, max=8) if group == "flexible" else None
    size = coremltools.RangeDim(1, 8, default=1, symbol="batch") if batch else 2
    exported = torch.export.export(
        Together(functions).eval(), inputs, dynamic_shapes=({0: batch}, {0: batch}) if batch else None
    )
    model = coremltools.convert(
        exported.run_decompositions({}),
        inputs=[coremltools.TensorType(name, shape=(size, 4, 6, 6), dtype=np.float32) for name in ("x", "y")],
        outputs=[coremltools.TensorType(f"out{i}", dtype=np.float32) for i in range(len(functions))],
        minimum_deployment_target=coremltools.target[release],
        compute_precision=coremltools.precision.FLOAT32,
        skip_model_load=True,
    )
    program = saved(model, tmp_path)
    assert_same(program, inputs, expected)
    seen.update(program.operators)


def test_what_only_mil_has_computes_the_same(inputs: tuple[Tensor, Tensor], seen: set[str], tmp_path: Path) -> None:
    import coremltools
    from coremltools.converters.mil.mil import Builder as mb

    tensors = [mb.TensorSpec((2, 4, 6, 6)) for _ in range(2)]

    @mb.program(input_specs=tensors, opset_version=coremltools.target.iOS18)
    def program(x: Any, y: Any) -> Any:
        return (
            mb.mod(x=x, y=y),
            mb.reduce_prod(x=y, axes=[2, -1]),
            mb.softsign(x=x),
            mb.gelu(x=x, mode="TANH_APPROXIMATION"),
            mb.einsum(values=(x, mb.transpose(x=y, perm=[0, 2, 3, 1])), equation="nchw,nwhu->nchu"),
            mb.reverse(x=x, axes=[1, -1]),
            mb.reverse(x=y),
        )

    model = coremltools.convert(
        program,
        minimum_deployment_target=coremltools.target.iOS18,
        compute_precision=coremltools.precision.FLOAT32,
        skip_model_load=True,
    )
    x, y = inputs
    expected = {
        "mod": torch.remainder(x, y),
        "reduce_prod": y.prod(3).prod(2),
        "softsign": functional.softsign(x),
        "gelu": functional.gelu(x, approximate="tanh"),
        "einsum": torch.einsum("nchw,nwhu->nchu", x, y.permute(0, 2, 3, 1)),
        "reverse": x.flip(1, 3),
        "reverse all": y.flip(0, 1, 2, 3),
    }
    loaded = saved(model, tmp_path)
    assert_same(loaded, inputs, expected)
    seen.update(loaded.operators)


def test_every_operation_that_is_claimed_was_evaluated_above(seen: set[str]) -> None:
    """Needs the whole module to have run."""
    assert set(OPERATIONS) - seen == set()
