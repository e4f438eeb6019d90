"""Registered by the tests through EDGE_ASSETS_MODELS. The environment moves what a test wants to vary."""

import os
from dataclasses import replace

from edge_assets import Calibration, Dataset, Evaluation, FineTuning, Gates, ImagePreprocessing, ModelSpec, Tensor

TINY = ModelSpec(
    name="tiny",
    architecture="tests.tiny.network:TinyNet",
    checkpoints=os.environ.get("TINY_CHECKPOINTS", "checkpoints"),
    inputs=(Tensor("image", "float32", ("batch", 1, 8, 8)),),
    outputs=(Tensor("logits", "float32", ("batch", int(os.environ.get("TINY_CLASSES", "10")))),),
    preprocessing=ImagePreprocessing(input="image", height=8, width=8, channels=1, mean=(0.3,), std=(0.35,)),
    calibration=Calibration(Dataset("tests.tiny.data:calibration", version=os.environ.get("TINY_CALIBRATION", "1"))),
    evaluation=Evaluation(Dataset("tests.tiny.data:evaluation"), minimum=500),
    gates=Gates(
        max_accuracy_drop_points=float(os.environ.get("TINY_DROP", "2.0")),
        max_size_bytes=int(os.environ.get("TINY_SIZE", str(2**20))),
        max_memory_bytes=2**30,
    ),
    targets=("graviton3", "raspberry-pi-5"),
    class_names=tuple("0123456789"),
)
TINY_QAT = replace(
    TINY, finetuning=FineTuning(Dataset("tests.tiny.data:finetuning"), epochs=3, learning_rate=2e-4, batch_size=64)
)
MLP = replace(TINY, name="mlp", architecture="tests.tiny.network:Mlp")
UNSUPPORTED = replace(TINY, name="unsupported", architecture="tests.tiny.network:Unsupported")
CONSTANT = replace(TINY, name="constant", architecture="tests.tiny.network:Constant")
RAISING = replace(TINY, name="raising", architecture="tests.tiny.network:Raising")
BAD_LOADER = replace(TINY, name="bad_loader", evaluation=Evaluation(Dataset("tests.tiny.data:raising"), minimum=500))
BAD_METRIC = replace(
    TINY, name="bad_metric", evaluation=replace(TINY.evaluation, metric="tests.tiny.data:raising_metric")
)
