"""coremltools: packages for three releases of iOS; macOS 15 takes those of iOS 18.

No other library than the product's own evaluator computes a package outside of macOS, so it is imported here, and its
time counts on both sides.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.handwritten.common import Clock, Report, Run, Work, call, cores, load_eager, sizes, verify
from benchmarks.handwritten.data import MEAN, STD

RELEASES = ("iOS16", "iOS17", "iOS18")
SMALLEST, BLOCK = 2048, 32  # elements of a weight that is compressed; weights that share a scale in int4


def convert(work: Work) -> dict[str, Path]:
    """Every distinct package, by name."""
    import torch

    files = {}
    with torch.inference_mode(False):
        program = torch.export.export(load_eager(work.checkpoint), (torch.rand(1, 1, 32, 32),), strict=False)
        program = program.run_decompositions({})
    for release in RELEASES:
        models = {"fp16": half(program, release)}
        models |= {name: compress(models["fp16"], name) for name in ("int8", "lut6", "lut4")}
        if release == "iOS18":  # the first that decodes int4
            models["int4"] = compress(models["fp16"], "int4")
        for precision, model in models.items():
            name = f"coreml_package_{precision} {release}"
            files[name] = work.file(name, ".mlpackage")
            model.save(str(files[name]))
    return files


def half(program: Any, release: str) -> Any:
    """An ML program in half precision that takes a grayscale picture."""
    import coremltools as ct

    picture = ct.ImageType(
        "image", shape=(1, 1, 32, 32), scale=1 / (255 * STD), bias=-MEAN / STD, color_layout=ct.colorlayout.GRAYSCALE
    )
    return ct.convert(
        program,
        inputs=[picture],
        outputs=[ct.TensorType("logits", dtype=np.float32)],
        minimum_deployment_target=ct.target[release],
        compute_precision=ct.precision.FLOAT16,
        skip_model_load=True,
    )


def compress(model: Any, precision: str) -> Any:
    """Weights as int8 or int4, or as indices into a palette of 64 or 16 values."""
    from coremltools.optimize import coreml as optimize

    bits = int(precision[-1])
    if precision.startswith("lut"):
        find = partial(palette_of, bits)
        palette = optimize.OpPalettizerConfig(mode="custom", lut_function=find, weight_threshold=SMALLEST)
        return optimize.palettize_weights(model, optimize.OptimizationConfig(global_config=palette))
    for granularity in ("per_block", "per_channel") if bits == 4 else ("per_channel",):  # blocks do not fit everywhere
        linear = optimize.OpLinearQuantizerConfig(
            mode="linear_symmetric",
            dtype=f"int{bits}",
            granularity=granularity,
            block_size=BLOCK,
            weight_threshold=SMALLEST,
        )
        model = optimize.linear_quantize_weights(model, optimize.OptimizationConfig(global_config=linear))
    return model


def palette_of(bits: int, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best palette of 2^bits values, by exact k-means, and each weight's index into it."""
    from coremltools.models.neural_network.quantization_utils import _get_kmeans_lookup_table_and_weight

    palette, indices = _get_kmeans_lookup_table_and_weight(bits, weight, force_kmeans1d=True)
    return palette.astype(weight.dtype), indices.reshape(-1).astype(np.uint8)


def open_model(path: Path, threads: int) -> Run:
    """A package in the product's evaluator, on uint8 pictures [n, 32, 32, 1]."""
    import torch

    from edge_assets.toolchains.coreml import evaluator as coreml_evaluator

    torch.set_num_threads(threads)
    each = torch.vmap(coreml_evaluator.load(path).run)

    def run(pictures: np.ndarray) -> np.ndarray:
        tensor = torch.from_numpy(pictures.transpose(0, 3, 1, 2)[:, None]).float()
        with torch.inference_mode():
            return each({"image": tensor})["logits"][:, 0].numpy()

    return run


def main(work: Work) -> Report:
    """Convert and verify. Nothing to measure: CoreML is not here."""
    clock = Clock()
    files = convert(work)
    clock.lap("conversion")
    data = [work.array(name) for name in ("pixels", "labels", "reference")]
    verified = {name: verify(open_model(path, cores()), *data) for name, path in files.items()}
    clock.lap("verification")
    return {"artifacts": sizes(files), "verified": verified, "phases": clock.seconds}


if __name__ == "__main__":
    call(main)
