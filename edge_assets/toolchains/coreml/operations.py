"""What each MIL operation computes, in PyTorch and fp32: the table that the CoreML evaluator walks a program with.

The arguments are named as in MIL's own definitions. Tensors arrive as torch tensors, constant scalars and strings
as Python values, constant lists (strides, axes, shapes) as integer tensors. A function raises Refused for a mode that
it does not compute, so that nothing is ever evaluated approximately.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edge_assets.errors import Refused

Operation = Callable[..., Tensor | Sequence[Tensor]]
Number = Tensor | float | int | bool


def integers(value: Any) -> list[int]:
    """A constant list, or a scalar, as Python integers."""
    return [int(item) for item in torch.as_tensor(value).reshape(-1).tolist()]


def _tensor(value: Number) -> Tensor:
    return torch.as_tensor(value)


def _only(name: str, value: Any, *supported: Any) -> None:
    """Raises Refused where an argument asks for what is not computed here."""
    if value not in supported:
        raise Refused(f"the evaluator computes only {name} = {' or '.join(map(repr, supported))}, not {value!r}")


# --- elementwise ---------------------------------------------------------------------------------------


def _unary(function: Callable[[Tensor], Tensor]) -> Operation:
    return lambda x: function(_tensor(x))


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operation:
    return lambda x, y: function(_tensor(x), _tensor(y))


def cast(x: Number, dtype: str) -> Tensor:
    """Floating-point types are all fp32 here, integers int64; fractions are cut off towards zero."""
    x = _tensor(x)
    if dtype.startswith("fp"):
        return x.float()
    return x != 0 if dtype == "bool" else x.long()


def select(cond: Number, a: Number, b: Number) -> Tensor:
    """`a` where `cond` holds, else `b`."""
    return torch.where(_tensor(cond).bool(), _tensor(a), _tensor(b))


def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    """`x` cut off below `alpha` and above `beta`."""
    return x.clamp(alpha, beta)


def rsqrt(x: Tensor, epsilon: float = 1e-12) -> Tensor:
    """1 / sqrt(x + epsilon)."""
    return torch.rsqrt(x + epsilon)


def inverse(x: Tensor, epsilon: float = 1e-4) -> Tensor:
    """1 / (x + epsilon)."""
    return 1 / (x + epsilon)


def log(x: Tensor, epsilon: float = 1e-45) -> Tensor:
    """Natural logarithm of x + epsilon."""
    return torch.log(x + epsilon)


# --- activations ---------------------------------------------------------------------------------------


def thresholded_relu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """`x` from `alpha` upwards, else 0."""
    return torch.where(x >= alpha, x, 0.0)


def sigmoid_hard(x: Tensor, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """The line alpha * x + beta, cut off at 0 and 1."""
    return (alpha * x + beta).clamp(0, 1)


def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    """x times the normal distribution's cumulative probability of x, exactly or by tanh."""
    _only("gelu's mode", mode, "EXACT", "TANH_APPROXIMATION")
    return functional.gelu(x, approximate="none" if mode == "EXACT" else "tanh")


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """exp(x) over its sum along the axis."""
    return torch.softmax(x, axis)


# --- matrix products, convolutions, attention ----------------------------------------------------------


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias."""
    return functional.linear(x, weight, bias)


def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """x @ y, each transposed first in its last two axes where asked for."""
    return torch.matmul(x.mT if transpose_x else x, y.mT if transpose_y else y)


def einsum(values: Sequence[Tensor], equation: str) -> Tensor:
    """The sum of products that the equation names, in Einstein's notation."""
    return torch.einsum(equation, *values)


def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """softmax(query @ key.T / sqrt(features) + attn_mask) @ value."""
    return functional.scaled_dot_product_attention(query, key, value, attn_mask)


def _padding(
    x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pad_type: str, pad: Any
) -> list[tuple[int, int]]:
    """Elements before and after each spatial axis of `x`."""
    if pad_type == "valid":
        return [(0, 0)] * len(kernel)
    if pad_type == "custom":
        flat = integers(pad)
        return list(zip(flat[::2], flat[1::2], strict=True))
    pairs = []
    for size, taps, stride, dilation in zip(x.shape[-len(kernel) :], kernel, strides, dilations, strict=True):
        total = max((math.ceil(size / stride) - 1) * stride + dilation * (taps - 1) + 1 - size, 0)
        pairs.append((total // 2, total - total // 2) if pad_type == "same" else (total - total // 2, total // 2))
    return pairs


def _padded(x: Tensor, pairs: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    return functional.pad(x, [amount for pair in reversed(pairs) for amount in pair], value=value)


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Any = None,
    pad_type: str = "valid",
    pad: Any = None,
    dilations: Any = None,
    groups: int = 1,
) -> Tensor:
    """Convolution over 1 to 3 spatial axes; uneven padding, which PyTorch's lacks, is added before it."""
    kernel = list(weight.shape[2:])
    ones = [1] * len(kernel)
    stride = ones if strides is None else integers(strides)
    dilation = ones if dilations is None else integers(dilations)
    pairs = _padding(x, kernel, stride, dilation, pad_type, pad)
    function: Any = (functional.conv1d, functional.conv2d, functional.conv3d)[len(kernel) - 1]
    if all(before == after for before, after in pairs):
        return function(x, weight, bias, stride, [before for before, _ in pairs], dilation, groups)
    return function(_padded(x, pairs), weight, bias, stride, 0, dilation, groups)


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Any = None,
    output_shape: Any = None,
    pad_type: str = "valid",
    strides: Any = None,
    dilations: Any = None,
    groups: int = 1,
) -> Tensor:
    """The full transposed convolution, cut to what `pad` and `output_shape` leave of it."""
    _only("conv_transpose's pad_type", pad_type, "valid", "custom")
    spatial = weight.dim() - 2
    ones = [1] * spatial
    stride = ones if strides is None else integers(strides)
    dilation = ones if dilations is None else integers(dilations)
    function = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[spatial - 1]
    full = function(x, weight, None, stride, 0, 0, groups, dilation)
    pairs = _padding(x, list(weight.shape[2:]), stride, dilation, pad_type, pad)
    for axis, (before, after) in enumerate(pairs, start=2):
        length = integers(output_shape)[axis] if output_shape is not None else full.shape[axis] - before - after
        missing = max(before + length - full.shape[axis], 0)  # output padding: beyond what the kernel reaches
        full = functional.pad(full, [0, 0] * (full.dim() - 1 - axis) + [0, missing]).narrow(axis, before, length)
    return full if bias is None else full + bias.reshape([1, -1, *ones])


# --- pooling -------------------------------------------------------------------------------------------


def _pool_window(x: Tensor, kernel_sizes: Any, strides: Any, pad_type: str, pad: Any) -> tuple[Any, Any, Any]:
    """Kernel, strides and padding of a pooling as Python integers."""
    kernel = integers(kernel_sizes)
    stride = [1] * len(kernel) if strides is None else integers(strides)
    return kernel, stride, _padding(x, kernel, stride, [1] * len(kernel), pad_type, pad)


def max_pool(
    x: Tensor, kernel_sizes: Any, strides: Any = None, pad_type: str = "valid", pad: Any = None, ceil_mode: bool = False
) -> Tensor:
    """The largest value of each window; padding is never the largest."""
    kernel, stride, pairs = _pool_window(x, kernel_sizes, strides, pad_type, pad)
    function = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[len(kernel) - 1]
    return function(_padded(x, pairs, -math.inf), kernel, stride, ceil_mode=ceil_mode)


def avg_pool(
    x: Tensor,
    kernel_sizes: Any,
    strides: Any = None,
    pad_type: str = "valid",
    pad: Any = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Tensor:
    """The mean of each window, its padding included unless that is excluded."""
    kernel, stride, pairs = _pool_window(x, kernel_sizes, strides, pad_type, pad)
    function: Any = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[len(kernel) - 1]
    if all(before == after for before, after in pairs):
        padding = [before for before, _ in pairs]
        return function(x, kernel, stride, padding, ceil_mode, not exclude_padding_from_average)
    _only("avg_pool's ceil_mode with uneven padding", ceil_mode, False)
    average = function(_padded(x, pairs), kernel, stride)
    if not exclude_padding_from_average:
        return average
    return average / function(_padded(torch.ones_like(x), pairs), kernel, stride)


# --- normalisation -------------------------------------------------------------------------------------


def _normalized(
    x: Tensor, axes: Sequence[int], gamma: Tensor | None, beta: Tensor | None, affine: Sequence[int], epsilon: float
) -> Tensor:
    """`x` with mean 0 and variance 1 over `axes`, then scaled and moved by gamma and beta along `affine`."""
    centred = x - x.mean(list(axes), keepdim=True)
    result = centred * torch.rsqrt(centred.square().mean(list(axes), keepdim=True) + epsilon)
    shape = [size if axis in affine else 1 for axis, size in enumerate(x.shape)]
    if gamma is not None:
        result = result * gamma.reshape(shape)
    return result if beta is None else result + beta.reshape(shape)


def layer_norm(
    x: Tensor, axes: Any = None, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5
) -> Tensor:
    """Normalized over `axes`, by default all, and scaled along them."""
    over = [axis % x.dim() for axis in integers(axes)] if axes is not None else list(range(x.dim()))
    return _normalized(x, over, gamma, beta, over, epsilon)


def instance_norm(x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5) -> Tensor:
    """Normalized over the spatial axes of each sample and channel, scaled by channel."""
    return _normalized(x, range(2, x.dim()), gamma, beta, [1], epsilon)


def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """Normalized by channel with the given mean and variance."""
    return functional.batch_norm(x, mean, variance, gamma, beta, eps=epsilon)


# --- reductions ----------------------------------------------------------------------------------------


def _reduction(function: Callable[..., Tensor]) -> Operation:
    def reduce(x: Tensor, axes: Any = None, keep_dims: bool = False) -> Tensor:
        over = integers(axes) if axes is not None else list(range(x.dim()))
        return function(x, over, keepdim=keep_dims)

    return reduce


def reduce_prod(x: Tensor, axes: Any = None, keep_dims: bool = False) -> Tensor:
    """The product over `axes`, by default all."""
    for axis in sorted((axis % x.dim() for axis in integers(axes)), reverse=True) if axes is not None else ():
        x = x.prod(axis, keepdim=keep_dims)
    return x if axes is not None else x.prod().reshape([1] * x.dim() if keep_dims else [])


def reduce_argmax(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    """The index of the largest value along `axis`; int64, as all integers here."""
    return x.argmax(axis, keepdim=keep_dims)


def reduce_argmin(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    """The index of the smallest value along `axis`; int64, as all integers here."""
    return x.argmin(axis, keepdim=keep_dims)


def topk(
    x: Tensor,
    k: int,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> Sequence[Tensor]:
    """The `k` largest values along `axis`, or smallest if `ascending`, and where they are."""
    values, indices = torch.topk(x, k, axis, largest=not ascending, sorted=sort)
    return (values, indices) if return_indices else (values,)


def cumsum(x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """Running sums along `axis`, each with its own value."""
    _only("cumsum's exclusive and reverse", (exclusive, reverse), (False, False))
    return torch.cumsum(x, axis)


# --- shapes --------------------------------------------------------------------------------------------


def reshape(x: Number, shape: Any) -> Tensor:
    """A 0 in `shape` keeps that axis of `x`."""
    x = _tensor(x)
    return x.reshape([size or x.shape[axis] for axis, size in enumerate(integers(shape))])


def transpose(x: Tensor, perm: Any) -> Tensor:
    """Axis i of the result is axis perm[i] of `x`."""
    return x.permute(integers(perm))


def expand_dims(x: Number, axes: Any) -> Tensor:
    """With axes of length 1 where `axes` says that the result has them."""
    x = _tensor(x)
    rank = x.dim() + len(integers(axes))
    for axis in sorted(axis % rank for axis in integers(axes)):
        x = x.unsqueeze(axis)
    return x


def squeeze(x: Tensor, axes: Any = None) -> Tensor:
    """Without `axes`, by default without all of length 1."""
    return x.squeeze(integers(axes)) if axes is not None else x.squeeze()


def concat(values: Sequence[Number], axis: int, interleave: bool = False) -> Tensor:
    """Joined along an axis that they have; a scalar counts as a list of one."""
    _only("concat's interleave", interleave, False)
    return torch.cat([torch.atleast_1d(_tensor(value)) for value in values], axis)


def stack(values: Sequence[Number], axis: int) -> Tensor:
    """Joined along a new axis."""
    return torch.stack([_tensor(value) for value in values], axis)


def split(x: Tensor, axis: int, num_splits: int | None = None, split_sizes: Any = None) -> Sequence[Tensor]:
    """Parts along `axis`, of the given sizes or `num_splits` equal ones."""
    sizes = integers(split_sizes) if split_sizes is not None else x.shape[axis] // int(num_splits or 1)
    return torch.split(x, sizes, axis)


def slice_by_index(
    x: Tensor,
    begin: Any,
    end: Any,
    stride: Any = None,
    begin_mask: Any = None,
    end_mask: Any = None,
    squeeze_mask: Any = None,
) -> Tensor:
    """Begin to end by stride on every axis; masks open an end, or take one index and drop the axis."""
    rank = x.dim()
    steps = [1] * rank if stride is None else integers(stride)
    whole = [0] * rank
    first, last, one = (whole if mask is None else integers(mask) for mask in (begin_mask, end_mask, squeeze_mask))
    index: list[Any] = []
    for axis, (start, stop) in enumerate(zip(integers(begin), integers(end), strict=True)):
        if steps[axis] < 1:
            raise Refused("the evaluator does not compute slice_by_index with a negative stride")
        index.append(
            start if one[axis] else slice(None if first[axis] else start, None if last[axis] else stop, steps[axis])
        )
    return x[tuple(index)]


def gather(x: Tensor, indices: Number, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """Slices along `axis`, which the axes of `indices` replace; negative indices count from the end."""
    _only("gather's batch_dims", batch_dims, 0)
    wanted = _tensor(indices).long()
    axis %= x.dim()
    flat = torch.index_select(x, axis, torch.where(wanted < 0, wanted + x.shape[axis], wanted).reshape(-1))
    return flat.reshape([*x.shape[:axis], *wanted.shape, *x.shape[axis + 1 :]])


def gather_along_axis(x: Tensor, indices: Tensor, axis: int = 0, validate_indices: bool = False) -> Tensor:
    """By position, the value at `indices` along `axis`; negative indices count from the end."""
    wanted = indices.long()
    return torch.gather(x, axis, torch.where(wanted < 0, wanted + x.shape[axis], wanted))


def tile(x: Tensor, reps: Any) -> Tensor:
    """`x` repeated reps[i] times along axis i."""
    return x.repeat(integers(reps))


def pad(x: Tensor, pad: Any, mode: str = "constant", constant_val: float = 0.0) -> Tensor:
    """`pad` covers the last axes, before and after each."""
    flat = integers(pad)
    pairs = list(zip(flat[::2], flat[1::2], strict=True))
    while pairs and pairs[0] == (0, 0):  # torch reflects and replicates inner axes only
        pairs = pairs[1:]
    amounts = [amount for pair in reversed(pairs) for amount in pair]
    if mode == "constant":
        return functional.pad(x, amounts, value=constant_val)
    return functional.pad(x, amounts, mode=mode)


def crop(x: Tensor, crop_height: Any, crop_width: Any) -> Tensor:
    """Cuts off rows above and below, and columns left and right."""
    (top, bottom), (left, right) = integers(crop_height), integers(crop_width)
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


def fill(shape: Any, value: float = 0.0) -> Tensor:
    """A tensor of that shape with one value everywhere."""
    return torch.full(integers(shape), value)


def range_1d(start: Number, end: Number, step: Number) -> Tensor:
    """start, start + step, ... before end."""
    return torch.arange(*(_tensor(value).item() for value in (start, end, step)))


def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    """Channels moved into blocks of upscale_factor x upscale_factor pixels."""
    return functional.pixel_shuffle(x, upscale_factor)


def _scaled(x: Tensor, height: float, width: float) -> list[int]:
    """Height and width after scaling, rounded down."""
    return [math.floor(x.shape[-2] * height), math.floor(x.shape[-1] * width)]


def upsample_nearest_neighbor(x: Tensor, scale_factor_height: float = 1, scale_factor_width: float = 1) -> Tensor:
    """The last two axes enlarged by repeating pixels."""
    return functional.interpolate(x, _scaled(x, scale_factor_height, scale_factor_width), mode="nearest")


def upsample_bilinear(
    x: Tensor, scale_factor_height: float = 1, scale_factor_width: float = 1, align_corners: bool = True
) -> Tensor:
    """The last two axes enlarged by interpolation between pixels' middles or, aligned, corners."""
    size = _scaled(x, scale_factor_height, scale_factor_width)
    return functional.interpolate(x, size, mode="bilinear", align_corners=align_corners)


OPERATIONS: Mapping[str, Operation] = {
    "identity": _unary(lambda x: x),
    "abs": _unary(torch.abs),
    "ceil": _unary(torch.ceil),
    "floor": _unary(torch.floor),
    "round": _unary(torch.round),
    "sign": _unary(torch.sign),
    "sqrt": _unary(torch.sqrt),
    "square": _unary(torch.square),
    "exp": _unary(torch.exp),
    "exp2": _unary(torch.exp2),
    "sin": _unary(torch.sin),
    "cos": _unary(torch.cos),
    "tan": _unary(torch.tan),
    "asin": _unary(torch.asin),
    "acos": _unary(torch.acos),
    "atan": _unary(torch.atan),
    "sinh": _unary(torch.sinh),
    "cosh": _unary(torch.cosh),
    "tanh": _unary(torch.tanh),
    "erf": _unary(torch.erf),
    "logical_not": _unary(torch.logical_not),
    "relu": _unary(torch.relu),
    "relu6": _unary(functional.relu6),
    "sigmoid": _unary(torch.sigmoid),
    "silu": _unary(functional.silu),
    "softplus": _unary(functional.softplus),
    "softsign": _unary(functional.softsign),
    "shape": _unary(lambda x: torch.tensor(x.shape)),
    "add": _binary(torch.add),
    "sub": _binary(torch.sub),
    "mul": _binary(torch.mul),
    "real_div": _binary(torch.true_divide),
    "floor_div": _binary(torch.floor_divide),
    "mod": _binary(torch.remainder),
    "pow": _binary(torch.pow),
    "maximum": _binary(torch.maximum),
    "minimum": _binary(torch.minimum),
    "equal": _binary(torch.eq),
    "not_equal": _binary(torch.ne),
    "less": _binary(torch.lt),
    "less_equal": _binary(torch.le),
    "greater": _binary(torch.gt),
    "greater_equal": _binary(torch.ge),
    "logical_and": _binary(torch.logical_and),
    "logical_or": _binary(torch.logical_or),
    "logical_xor": _binary(torch.logical_xor),
    "leaky_relu": lambda x, alpha=0.01: functional.leaky_relu(x, alpha),
    "elu": lambda x, alpha=1.0: functional.elu(x, alpha),
    "prelu": lambda x, alpha: functional.prelu(x, weight=alpha),
    "reduce_mean": _reduction(torch.mean),
    "reduce_sum": _reduction(torch.sum),
    "reduce_max": _reduction(torch.amax),
    "reduce_min": _reduction(torch.amin),
    "reduce_log_sum_exp": _reduction(torch.logsumexp),
    "reduce_l2_norm": _reduction(lambda x, axes, keepdim: x.square().sum(axes, keepdim=keepdim).sqrt()),
    **{
        function.__name__: function
        for function in (
            *(cast, select, clip, rsqrt, inverse, log, thresholded_relu, sigmoid_hard, gelu, softmax),
            *(linear, matmul, einsum, scaled_dot_product_attention, conv, conv_transpose, max_pool, avg_pool),
            *(layer_norm, instance_norm, batch_norm, reduce_prod, reduce_argmax, reduce_argmin, topk, cumsum),
            *(reshape, transpose, expand_dims, squeeze, concat, stack, split, slice_by_index, gather),
            *(gather_along_axis, tile, pad, crop, fill, range_1d, pixel_shuffle),
            *(upsample_nearest_neighbor, upsample_bilinear),
        )
    },
}
