"""The example model, with the schemes that a release usually comes from, and once more with all that there are."""

from dataclasses import replace

from edge_assets import (
    Automation,
    Calibration,
    Dataset,
    Evaluation,
    FineTuning,
    Gates,
    ImagePreprocessing,
    ModelSpec,
    Search,
    Tensor,
)

PREPROCESSING = ImagePreprocessing(input="image", height=32, width=32, channels=1, mean=(0.3,), std=(0.3,))

DIGITS = ModelSpec(
    name="digits",
    description="Handwritten digits under clutter, affine distortion and noise: a 0.6 M parameter depthwise CNN.",
    architecture="examples.digits.network:DigitsNet",
    checkpoints="examples/digits/checkpoints",
    inputs=(Tensor("image", "float32", ("batch", 1, 32, 32)),),
    outputs=(Tensor("logits", "float32", ("batch", 10)),),
    preprocessing=PREPROCESSING,
    calibration=Calibration(Dataset("examples.digits.data:calibration")),
    evaluation=Evaluation(Dataset("examples.digits.data:evaluation"), metric="top1_accuracy", minimum=2000),
    gates=Gates(max_accuracy_drop_points=1.0, max_size_bytes=4 * 2**20, max_memory_bytes=2**30),
    targets=(
        *("x86-64-avx2", "x86-64-vnni", "raspberry-pi-5", "graviton3"),
        *("t4", "a100", "l4", "rtx-4090", "rtx-5090", "h100", "jetson-orin"),
        *("iphone-12", "iphone-15-pro", "ipad", "mac-m-series"),
        *("pixel-8", "snapdragon-8", "android-midrange"),
        *("cortex-m4", "cortex-m7", "cortex-m55"),
        *("browser-wasm", "browser-firefox", "browser-webkit", "browser-webgpu"),
    ),
    class_names=tuple("0123456789"),
    owners=("team:edge-assets",),
    license="Apache-2.0",
    automation=Automation(on_checkpoint=False, nightly=False),  # an example is built when somebody asks for it
)

# The same model with every scheme, quantization-aware training, an accuracy-bounded search, and more test images; to
# register it:
# EDGE_ASSETS_MODELS=examples.digits.spec:DIGITS_IN_DEPTH
DIGITS_IN_DEPTH = replace(
    DIGITS,
    name="digits_in_depth",
    evaluation=Evaluation(Dataset("examples.digits.data:evaluation_in_depth"), minimum=5000),
    finetuning=FineTuning(
        Dataset("examples.digits.data:finetuning"), loss="examples.digits.losses:smoothed", epochs=3, learning_rate=1e-5
    ),
    schemes="all",
    search=Search(),
)
