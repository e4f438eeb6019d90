"""The network as a registered model."""

from edge_assets import Calibration, Dataset, Evaluation, Gates, ImagePreprocessing, ModelSpec, Tensor

RESNET = ModelSpec(
    name="resnet18",
    architecture="benchmarks.streaming.network:ResNet18",
    checkpoints="unused: the benchmark registers the file that it made",
    inputs=(Tensor("image", "float32", ("batch", 3, 224, 224)),),
    outputs=(Tensor("logits", "float32", ("batch", 1000)),),
    preprocessing=ImagePreprocessing(
        input="image", height=224, width=224, channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    ),
    calibration=Calibration(Dataset("benchmarks.streaming.data:calibration")),
    evaluation=Evaluation(Dataset("benchmarks.streaming.data:evaluation"), minimum=8),
    gates=Gates(max_accuracy_drop_points=2.0),
    targets=("x86-64-vnni",),
)
