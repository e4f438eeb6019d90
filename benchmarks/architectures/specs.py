"""The three architectures as registered models; their checkpoints are trained on first use."""

from dataclasses import replace

from examples.digits.spec import DIGITS_IN_DEPTH

NETWORKS = {"residual": "ResidualNet", "depthwise": "DepthwiseNet", "vit": "SmallViT"}

SPECS = {
    name: replace(
        DIGITS_IN_DEPTH,
        name=name,
        description=f"{network} on the digits example's images",
        architecture=f"benchmarks.architectures.network:{network}",
        checkpoints="unused: the benchmark registers the file that it trained",
    )
    for name, network in NETWORKS.items()
}
