"""Logs of what failed: the whole story of an error of which a person is shown the telling lines."""

import hashlib
import logging
import re
import traceback
from pathlib import Path

from edge_assets.addresses import hide_credentials
from edge_assets.errors import EdgeAssetsError, told

FOLDER = "failures"  # in the local cache
log = logging.getLogger(__name__)


def report(error: Exception, folder: Path, name: str) -> str:
    """The message that a person is shown; where there is more to tell, it ends with the place of the log."""
    is_whole = isinstance(error, EdgeAssetsError) and error.__cause__ is None
    if is_whole:
        return str(error)
    return f"{told(error)}\nThe whole story is in {folder / keep(error, folder, name)}"


def keep(error: BaseException, folder: Path, name: str) -> str:
    """Write an error's traceback and its toolchain's log below `folder`; returns the file's name there.

    A later failure of the same name replaces it. Where it cannot be written, that is a warning: what failed is said
    all the same.
    """
    short = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:80]
    file = f"{short}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.log"
    parts = ["".join(traceback.format_exception(error)), getattr(error, "log", "")]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(hide_credentials("\n".join(filter(None, parts))), errors="replace")
    except OSError as reason:
        log.warning("the log of %s could not be written: %s", name, reason)
    return file
