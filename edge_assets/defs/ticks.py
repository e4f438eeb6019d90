"""What Dagster's page shows of a tick that fails: one message, as of an asset, and no traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

from dagster._core.errors import DagsterUserCodeProcessError
from dagster._utils.error import SerializableErrorInfo  # type: ignore[attr-defined]  # it is re-exported there

from edge_assets.core import failures
from edge_assets.settings import home


@contextmanager
def clear_tick_errors(name: str) -> Iterator[None]:
    """Every error of the block as one message; of one that is not the user's to fix, a log has the rest.

    Dagster shows the frames of whatever a tick raises, but for errors that it takes to come from another process: these
    it shows as they were told.
    """
    try:
        yield
    except Exception as error:
        message = failures.report(error, home().cache / failures.FOLDER, name)
        told = SerializableErrorInfo(message=message, stack=[], cls_name=type(error).__name__)
        raise DagsterUserCodeProcessError.from_error_info(told) from None
