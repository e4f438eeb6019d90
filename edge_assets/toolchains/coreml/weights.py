"""Compressed weights of CoreML packages; activations stay in fp16. Made from the fp16 package, without PyTorch.

int8, int4   linear, symmetric: a scale per output channel, or per block of 32 weights of one channel
lut6, lut4   palettes: each weight is an index into a table of 64 or 16 values per tensor, by exact k-means

CoreML decompresses as it loads or as it computes, whichever the compute unit prefers: what is certain to shrink is the
package. Weights of 2048 elements and less stay as they are, which is coremltools' own threshold.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_assets.core.scheme import Granularity, Precision, Scheme
from edge_assets.core.variant import BuildRequest, Variant
from edge_assets.errors import Refused
from edge_assets.toolchains.coreml import package as coreml

if TYPE_CHECKING:
    from edge_assets.spec.model import ModelSpec
    from edge_assets.targets import Target

BLOCK = 32
SMALLEST = 2048  # elements


def build(request: BuildRequest) -> Mapping[str, Any]:
    """Compress. Raises Refused where the deployment target cannot decode the scheme or no weight is large enough."""
    import coremltools

    recipe, deployment = request.parameters["recipe"], request.parameters["deployment_target"]
    needed = request.parameters["needs"]
    if coreml.is_below(deployment, needed):
        raise Refused(
            f"{recipe} needs iOS {needed} or macOS {coreml.macos_of(needed)}, this target deploys to {deployment}; use "
            f"{'coreml_package_lut4' if needed > 16 else 'coreml_package_fp16'}"
        )
    model = coremltools.models.MLModel(str(coreml.package_in(request.source)), skip_model_load=True)
    compressed = model
    for compress in _passes(request):
        compressed = compress(compressed)
    compressed_share = _compressed_share(compressed)
    if not compressed_share:
        raise Refused(
            f"no weight of this model has more than {SMALLEST} elements, so {recipe} would leave all in fp16; use "
            f"coreml_package_fp16"
        )
    kept = {
        name.removeprefix("edge_assets."): value
        for name, value in model.user_defined_metadata.items()
        if name.startswith("edge_assets.")
    }
    package = coreml.save(compressed, request.output, request.spec, kept | {"recipe": recipe})
    return {"recipe": recipe, "compressed_share": round(compressed_share, 4), **coreml.describe(package, request)}


def _passes(request: BuildRequest) -> Iterator[Callable[[Any], Any]]:
    """Compressions to apply in turn: a weight that one compressed, the next leaves alone."""
    from coremltools.optimize import coreml as optimize

    bits, is_palette = request.parameters["bits"], request.parameters["palette"]
    if is_palette:
        palette = optimize.OpPalettizerConfig(
            mode="custom", lut_function=partial(_palette, bits), weight_threshold=SMALLEST
        )
        yield partial(optimize.palettize_weights, config=optimize.OptimizationConfig(global_config=palette))
        return
    # input channels that are no multiple of a block's size cannot be cut into blocks
    for granularity in ("per_block", "per_channel") if bits == 4 else ("per_channel",):
        linear = optimize.OpLinearQuantizerConfig(
            mode="linear_symmetric",
            dtype=f"int{bits}",
            granularity=granularity,
            block_size=BLOCK,
            weight_threshold=SMALLEST,
        )
        yield partial(optimize.linear_quantize_weights, config=optimize.OptimizationConfig(global_config=linear))


def _palette(bits: int, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The palette of 2^bits values with the least squared error, and each weight's index into it.

    coremltools' own mode clusters small tensors with scikit-learn, whose result depends on the number of threads; in
    one dimension the optimum can be found exactly.
    """
    from coremltools.models.neural_network.quantization_utils import _get_kmeans_lookup_table_and_weight

    palette, indices = _get_kmeans_lookup_table_and_weight(bits, weight, force_kmeans1d=True)
    return palette.astype(weight.dtype), indices.reshape(-1).astype(np.uint8)


def _compressed_share(model: Any) -> float:
    """The share of the weights' elements that are stored compressed."""
    held = kept = 0
    for operation in model._mil_program.functions["main"].operations:
        out = operation.outputs[0]
        if operation.op_type.startswith("constexpr_"):
            held += int(np.prod(out.shape))
        elif operation.op_type == "const" and out.rank and np.issubdtype(out.val.dtype, np.floating):
            feeds_constexpr = any(child.op_type.startswith("constexpr_") for child in out.child_ops)
            kept += 0 if feeds_constexpr else int(np.prod(out.shape))
    return held / max(1, held + kept)


def _linear(precision: Precision, granularity: Granularity, block: int | None = None) -> Scheme:
    return Scheme(
        precision=precision,
        kind="weightonly",
        form="linear",
        activations="f16",
        weights=f"s{precision[-1]}",
        granularity=granularity,
        block=block,
    )


def _palettized(precision: Precision) -> Scheme:
    return Scheme(
        precision=precision,
        kind="weightonly",
        form="palette",
        activations="f16",
        weights=f"u{precision[-1]}",
        granularity="pertensor",
        method="kmeans",
    )


def _variant(precision: Precision, bits: int, palette: bool, scheme: Scheme, needs: int, description: str) -> Variant:
    def parameters(spec: "ModelSpec", target: "Target") -> dict[str, Any]:
        # the rest is the package's, and so in the source's hash
        deployment, image = coreml.deployment_target(target), coreml.picture(spec)
        return {
            "recipe": scheme.name,
            "bits": bits,
            "palette": palette,
            "deployment_target": deployment,
            "needs": needs,
            "image": image,
        }

    return replace(
        coreml.PACKAGE,
        name=f"coreml_package_{precision}",
        description=description,
        precision=precision,
        source=coreml.PACKAGE.name,
        build=build,
        parameters=parameters,
        code_version="2",
    )


INT8 = _variant(
    *("int8", 8, False, _linear("int8", granularity="perchannel"), 16),
    "Int8 weights with a scale per output channel; activations stay in fp16.",
)
LUT6 = _variant(
    *("lut6", 6, True, _palettized("lut6"), 16),
    "Weights from a palette of 64 values per tensor; activations stay in fp16.",
)
LUT4 = _variant(
    *("lut4", 4, True, _palettized("lut4"), 16),
    "Weights from a palette of 16 values per tensor; activations stay in fp16.",
)
INT4 = _variant(
    *("int4", 4, False, _linear("int4", granularity="perblock", block=BLOCK), 18),
    f"Int4 weights with a scale per block of {BLOCK}, or per output channel where blocks do not fit; iOS 18.",
)
