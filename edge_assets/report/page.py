"""The scorecard page: one self-contained HTML file."""

import base64
import os
import tempfile
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2

from edge_assets.model import ModelSpec
from edge_assets.report import plots

TEMPLATE = Path(__file__).with_name("scorecard.html")


def write(path: Path, spec: ModelSpec, checkpoint: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the page of one checkpoint, replacing the former in one rename."""
    targets = [
        {"name": name, "rows": (mine := list(group)), "plot": base64.b64encode(plots.accuracy(mine)).decode()}
        for name, group in groupby(rows, key=lambda row: row["target"])
    ]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(TEMPLATE.read_text()).render(spec=spec, checkpoint=checkpoint, targets=targets)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(page)
    os.replace(file.name, path)
