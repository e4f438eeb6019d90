"""The Apple family: iPhone, iPad and Mac, through CoreML."""

from edge_assets.families.family import Family
from edge_assets.toolchains.coreml import package as coreml
from edge_assets.toolchains.coreml import weights as coreml_weights
from edge_assets.toolchains.executorch import program as executorch

APPLE = Family(
    name="apple",
    description="iPhone, iPad and Mac, which run CoreML",
    variants=(
        coreml.PACKAGE,
        coreml_weights.INT8,
        coreml_weights.LUT6,
        coreml_weights.LUT4,
        coreml_weights.INT4,
        executorch.COREML,
    ),
)
