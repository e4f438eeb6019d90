"""The face detector, registered: EDGE_ASSETS_MODELS=examples.faces.spec:FACES."""

from edge_assets import (
    Automation,
    Calibration,
    Dataset,
    Evaluation,
    Gates,
    ImagePreprocessing,
    Metric,
    ModelSpec,
    Tensor,
)
from edge_assets.core.tools import version

EXTRA = "faces"


def _versions() -> str:
    """The data's version: pictures are the packages' own, and change with them."""
    found = [f"{name} {version(name, EXTRA)}" for name in ("scikit-image", "scikit-learn", "pillow")]
    return ", ".join(found)


# pictures keep their size, so that boxes are in their pixels, and on phones their proportions; the network scales the
# values itself
PREPROCESSING = ImagePreprocessing(
    "image",
    height=240,
    width=320,
    channels=3,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    scale=1.0,
    resize="letterbox",
    least=(56, 56),
)
FACES = ModelSpec(
    name="faces",
    description="MTCNN's P-Net over five sizes of the picture: proposals of faces from 6.6 thousand parameters.",
    architecture="examples.faces.network:FaceProposals",
    checkpoints="examples/faces/checkpoints",
    inputs=(Tensor("image", "float32", ("batch", 3, "height", "width")),),
    outputs=(
        Tensor("boxes", "float32", ("batch", "cells", 4)),
        Tensor("scores", "float32", ("batch", "cells", 1)),
    ),
    axis_ranges={"height": (56, 96, 240), "width": (56, 128, 320)},
    preprocessing=PREPROCESSING,
    calibration=Calibration(Dataset("examples.faces.data:calibration", version=_versions())),
    evaluation=Evaluation(
        Dataset("examples.faces.data:evaluation", version=_versions()),
        metric=Metric("coco_map", {"nms": 0.3, "min_score": 0.5, "iou": 0.5}),
        minimum=240,
    ),
    gates=Gates(max_accuracy_drop_points=1.0, max_size_bytes=8 * 2**20, max_memory_bytes=2**29),
    targets=(
        *("x86-64-avx2", "x86-64-vnni", "raspberry-pi-5", "graviton3"),
        *("l4", "jetson-orin"),
        *("iphone-15-pro", "mac-m-series"),
        *("pixel-8", "android-midrange"),
        *("cortex-m7", "browser-wasm"),
    ),
    class_names=("face",),
    owners=("team:edge-assets",),
    license="MIT",
    automation=Automation(on_checkpoint=False, nightly=False),  # an example is built when somebody asks for it
)
