"""What builds say beside `evidence.Facts`: words of their toolchains, which only they and their tests read."""

from collections.abc import Mapping
from typing import Any

from edge_assets.core.types import Built


def said(built: Built) -> Mapping[str, Any]:
    """All facts of a build, as JSON."""
    return built.build.facts
