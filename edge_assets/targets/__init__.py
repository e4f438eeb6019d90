"""The target catalog: hardware as data, and its typed reader.

A target is one entry in `catalog.yaml`. Users add their own in a YAML file of the same form, named in
`pyproject.toml` as `[tool.edge_assets] targets = ["my_targets.yaml"]`.
"""

from edge_assets.targets.catalog import Catalog, Quantization, Target, load_catalog
from edge_assets.targets.machine import Machine, is_this_machine, local_target, this_machine, usable_cores

__all__ = [
    "Catalog",
    "Machine",
    "Quantization",
    "Target",
    "is_this_machine",
    "load_catalog",
    "local_target",
    "this_machine",
    "usable_cores",
]
