"""Tools of this machine that install and run emulated CPUs, each to its end and with all that it prints."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from edge_assets.errors import EdgeAssetsError


class TookTooLong(EdgeAssetsError):
    """A command that was stopped."""


def finished(
    command: Sequence[str],
    folder: Path,
    seconds: float,
    what: str,
    environment: Mapping[str, str],
) -> subprocess.CompletedProcess[str]:
    """A command that ran to its end in `folder`, with all that it printed; `what` it is, in words.

    Its messages are in English, so that they can be read. Raises TookTooLong after `seconds`.
    """
    try:
        return subprocess.run(
            command,
            check=False,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C.UTF-8", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise TookTooLong(f"{what} took longer than {seconds / 60:.0f} minutes and was stopped") from None
