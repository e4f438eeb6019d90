"""The segmentation network, registered: EDGE_ASSETS_MODELS=examples.segmentation.spec:SEGMENTATION."""

from edge_assets import (
    Automation,
    Calibration,
    Dataset,
    Evaluation,
    Gates,
    ImagePreprocessing,
    ModelSpec,
    Tensor,
)

PREPROCESSING = ImagePreprocessing(
    input="image",
    height=48,
    width=48,
    channels=3,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    resize="letterbox",
)

SEGMENTATION = ModelSpec(
    name="segmentation",
    description="Shapes over textures: a U-Net of 98 thousand parameters that names the class of every pixel.",
    architecture="examples.segmentation.network:UNet",
    checkpoints="examples/segmentation/checkpoints",
    inputs=(Tensor("image", "float32", ("batch", 3, 48, 48)),),
    outputs=(Tensor("logits", "float32", ("batch", 5, 48, 48)),),
    preprocessing=PREPROCESSING,
    calibration=Calibration(Dataset("examples.segmentation.data:calibration")),
    evaluation=Evaluation(
        Dataset("examples.segmentation.data:evaluation"),
        metric="mean_iou",
        labels="mask",
    ),
    gates=Gates(max_accuracy_drop_points=1.0, max_size_bytes=4 * 2**20, max_memory_bytes=2**29),
    targets=(
        *("x86-64-avx2", "x86-64-vnni", "raspberry-pi-5", "graviton3"),
        *("l4", "jetson-orin"),
        *("iphone-15-pro", "mac-m-series"),
        *("pixel-8", "android-midrange"),
        *("cortex-m4", "cortex-m7", "browser-wasm"),
    ),
    class_names=("background", "disc", "square", "triangle", "ring"),
    owners=("team:edge-assets",),
    license="Apache-2.0",
    automation=Automation(on_checkpoint=False, nightly=False),  # an example is built when somebody asks for it
)
