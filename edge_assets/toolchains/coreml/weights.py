"""Compressed weights of CoreML packages; activations stay in fp16. Made from the fp16 package, without PyTorch.

int8, int4   linear, symmetric: a scale per output channel, or per block of 32 weights of one channel
lut6, lut4   palettes: each weight is an index into a table of 64 or 16 values per tensor, by exact k-means

CoreML decompresses as it loads or as it computes, whichever the compute unit prefers: what is certain to shrink is the
package. Weights of 2048 elements and less stay as they are, which is coremltools' own threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from edge_assets.core.scheme import Granularity, Precision, Scheme
from edge_assets.core.variant import BuildRequest, Variant
from edge_assets.errors import Refused
from edge_assets.later import np
from edge_assets.toolchains.coreml import mil
from edge_assets.toolchains.coreml import package as coreml

if TYPE_CHECKING:
    from coremltools.models import MLModel

    from edge_assets.spec.model import ModelSpec
    from edge_assets.targets import Target

BLOCK = 32
SMALLEST = 2048  # elements
OURS = "edge_assets."  # begins the names of our metadata


def build(request: BuildRequest) -> Mapping[str, Any]:
    """Compress. Raises Refused where the deployment target cannot decode the scheme or no weight is large enough."""
    import coremltools

    recipe, deployment = request.parameters["recipe"], request.parameters["deployment_target"]
    needed = request.parameters["needs"]
    if coreml.is_below(deployment, needed):
        instead = "coreml_package_lut4" if needed > 16 else "coreml_package_fp16"
        raise Refused(
            f"{recipe} needs iOS {needed} or macOS {coreml.macos_of(needed)}, this target deploys to {deployment}; use "
            f"{instead}"
        )
    source = coreml.package_in(request.source)
    model = coremltools.models.MLModel(str(source), skip_model_load=True)
    compressed = model
    for compress in _passes(request):
        compressed = compress(compressed)
    compressed_share = _compressed_share(compressed)
    if not compressed_share:
        raise Refused(
            f"no weight of this model has more than {SMALLEST} elements, so {recipe} would leave all in fp16; use "
            f"coreml_package_fp16"
        )
    provenance = _provenance(model) | {"recipe": recipe}
    package = coreml.save(compressed, request.output, request.spec, provenance)
    return {"recipe": recipe, "compressed_share": round(compressed_share, 4), **coreml.describe(package, request)}


def _provenance(model: MLModel) -> dict[str, str]:
    """Our metadata of a package, by the names that `save` takes."""
    provenance = {}
    for name, value in model.user_defined_metadata.items():
        if name.startswith(OURS):
            provenance[name.removeprefix(OURS)] = value
    return provenance


def _passes(request: BuildRequest) -> Iterator[Callable[[MLModel], MLModel]]:
    """Compressions to apply in turn: a weight that one compressed, the next leaves alone."""
    bits = request.parameters["bits"]
    if request.parameters["palette"]:
        yield _palette_pass(bits)
        return
    if bits == 4:
        yield _linear_pass(bits, "per_block")
    # also for int4: input channels that are no multiple of a block's size cannot be cut into blocks
    yield _linear_pass(bits, "per_channel")


def _palette_pass(bits: int) -> Callable[[MLModel], MLModel]:
    from coremltools.optimize import coreml as optimize

    palette = optimize.OpPalettizerConfig(
        mode="custom",
        lut_function=partial(_palette, bits),
        weight_threshold=SMALLEST,
    )
    return partial(optimize.palettize_weights, config=optimize.OptimizationConfig(global_config=palette))


def _linear_pass(bits: int, granularity: Literal["per_block", "per_channel"]) -> Callable[[MLModel], MLModel]:
    from coremltools.optimize import coreml as optimize

    linear = optimize.OpLinearQuantizerConfig(
        mode="linear_symmetric",
        dtype=f"int{bits}",
        granularity=granularity,
        block_size=BLOCK,
        weight_threshold=SMALLEST,
    )
    return partial(optimize.linear_quantize_weights, config=optimize.OptimizationConfig(global_config=linear))


def _palette(bits: int, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The palette of 2^bits values with the least squared error, and each weight's index into it.

    coremltools' own mode clusters small tensors with scikit-learn, whose result depends on the number of threads; in
    one dimension the optimum can be found exactly.
    """
    from coremltools.models.neural_network.quantization_utils import _get_kmeans_lookup_table_and_weight

    palette, indices = _get_kmeans_lookup_table_and_weight(bits, weight, force_kmeans1d=True)
    return palette.astype(weight.dtype), indices.reshape(-1).astype(np.uint8)


def _compressed_share(model: MLModel) -> float:
    """The share of the weights' elements that are stored compressed."""
    compressed = plain = 0
    for operation in model._mil_program.functions["main"].operations:
        if mil.holds_compressed(operation):
            compressed += int(np.prod(operation.outputs[0].shape))
        elif mil.is_plain_weight(operation):
            plain += int(np.prod(operation.outputs[0].shape))
    return compressed / max(1, compressed + plain)


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


def _variant(scheme: Scheme, description: str, bits: int, palette: bool, needs: int) -> Variant:
    """A scheme that decodes from iOS `needs` on."""
    precision = scheme.precision

    def parameters(spec: ModelSpec, target: Target) -> dict[str, object]:
        # the rest is the package's, and so in the source's hash
        return {
            "recipe": scheme.name,
            "bits": bits,
            "palette": palette,
            "deployment_target": coreml.deployment_target(target),
            "needs": needs,
            "image": coreml.picture(spec),
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
    scheme=_linear("int8", granularity="perchannel"),
    description="Int8 weights with a scale per output channel; activations stay in fp16.",
    bits=8,
    palette=False,
    needs=16,
)
LUT6 = _variant(
    scheme=_palettized("lut6"),
    description="Weights from a palette of 64 values per tensor; activations stay in fp16.",
    bits=6,
    palette=True,
    needs=16,
)
LUT4 = _variant(
    scheme=_palettized("lut4"),
    description="Weights from a palette of 16 values per tensor; activations stay in fp16.",
    bits=4,
    palette=True,
    needs=16,
)
INT4 = _variant(
    scheme=_linear("int4", granularity="perblock", block=BLOCK),
    description=f"Int4 weights with a scale per block of {BLOCK}, or per output channel where blocks do not fit; "
    "iOS 18.",
    bits=4,
    palette=False,
    needs=18,
)
