"""What goes wrong with a file, as one StoreError that says what it was and what to do."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from edge_assets.errors import StoreError, one_line

DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
FULL = (errno.ENOSPC, errno.EDQUOT)
RIGHTS = (
    "to read, the credentials need s3:GetObject below the prefix and s3:ListBucket on the bucket, without which "
    "what is absent reads as denied; to build, s3:PutObject and s3:DeleteObject too"
)


class Denied(StoreError):
    """Who asks may not do this: a store that can only be read."""


class Damaged(StoreError):
    """What arrived over the network is not what was sent: to be asked for again."""


@contextmanager
def as_store_error(
    verb: str,
    where: str,
    is_local: bool,
    copy: str | None = None,
) -> Iterator[None]:
    """Turns what goes wrong with the file at `where` into one clear message. `copy` is the file that is written to."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise _translated(error, verb, where, is_local, copy) from error
    except Exception as error:
        if is_local or not _is_of_the_network(error):
            raise
        raise _translated(error, verb, where, is_local, copy) from error


def is_denied(error: OSError) -> bool:
    """Whether the system, or an object store, says that who asks may not."""
    return isinstance(error, PermissionError) or error.errno in DENIED


def _translated(
    error: Exception,
    verb: str,
    where: str,
    is_local: bool,
    copy: str | None,
) -> StoreError:
    if isinstance(error, OSError) and error.errno in FULL:
        message = f"no space left on the disk while writing {copy or where}; nothing was half-written"
    elif is_local:
        message = f"cannot {verb} {where}: {getattr(error, 'strerror', None) or one_line(error)}"
    else:
        message = f"cannot {verb} {where}: {_said_by_the_object_store(error)}"
    if isinstance(error, OSError) and is_denied(error):
        return Denied(message)
    if not is_local and _is_damage(error):
        return Damaged(message)
    return StoreError(message)


def _said_by_the_object_store(error: Exception) -> str:
    said = one_line(error, 700)
    if isinstance(error, PermissionError):
        return f"access denied ({said}); {RIGHTS}"
    if isinstance(error, FileNotFoundError):
        return f"{said}; does the bucket exist?"
    if _is_damage(error):
        return f"it was cut off or changed on the way ({said}); nothing was lost, run again"
    return f"after several tries, {said} ({type(error).__name__}); nothing was lost, run again"


def _is_of_the_network(error: Exception) -> bool:
    from aiohttp import ClientError as AiohttpError
    from botocore.exceptions import BotoCoreError, ClientError

    return isinstance(error, AiohttpError | BotoCoreError | ClientError)


def _is_damage(error: Exception) -> bool:
    from aiohttp import ClientPayloadError
    from botocore.exceptions import FlexibleChecksumError, IncompleteReadError, ResponseStreamingError

    return isinstance(error, ClientPayloadError | FlexibleChecksumError | IncompleteReadError | ResponseStreamingError)
