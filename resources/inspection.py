"""Is a checkpoint file whole, and what is its hash? Of a large one, in a process that outlives a sensor's tick.

`python -m resources.inspection ANSWER WORK` reads the URL from its standard input, because everybody on a machine can
read the arguments of its processes, and writes what it found to the file ANSWER, as JSON.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from edge_assets.core.checkpoint import check_complete
from edge_assets.errors import CheckpointError, EdgeAssetsError, one_line, printable
from edge_assets.hashing import digest, sha256_of
from resources import shards

LARGE = 2**28  # bytes from which a file is hashed in the background: a slow disk reads it several times in ten seconds
KEPT_SECONDS = 86400  # an answer that nobody fetched: the file changed meanwhile


@dataclass(frozen=True)
class Content:
    """What a whole checkpoint file holds."""

    sha256: str
    size: int


def is_local(url: str) -> bool:
    """Whether the URL is a path of this machine."""
    return "://" not in url or url.startswith("file://")


def local_path(url: str) -> Path:
    """The path that a local URL names, absolute."""
    return Path(os.path.abspath(url.removeprefix("file://")))  # noqa: PTH100  # resolve() would follow links


def download(url: str, work: Path) -> Path:
    """The file itself if it is local, else a copy of it in `work`; of a set of files, one in `work` with all of it.

    Raises CheckpointError if it cannot be had.
    """
    folder, slash, name = url.rpartition("/")
    names = shards.members(name)
    if not names:
        return _file(url, work)
    parts = [_file(f"{folder}{slash}{part}", _own_folder(work)) for part in names]
    whole = _own_folder(work) / f"whole{parts[0].suffix}"
    shards.merge(parts, whole)
    return whole


def _own_folder(work: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=work))


def _file(url: str, work: Path) -> Path:
    if is_local(url):
        return Path(url.removeprefix("file://"))
    from upath import UPath

    path = UPath(url, use_listings_cache=False)
    copy = work / f"download{path.suffix}"
    try:
        path.fs.get_file(path.path, str(copy))
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {printable(url, 200)} does not exist") from None
    except Exception as error:  # whatever the object store's client raises
        raise CheckpointError(f"checkpoint {printable(url, 200)} cannot be read: {one_line(error)}") from None
    return copy


def inspect(url: str, work: Path) -> Content:
    """Check a file and hash it. Raises CheckpointError for one that is missing, broken, or changes meanwhile."""
    path = download(url, work)
    check_complete(path)
    try:
        before = path.stat()
        content = Content(sha256_of(path), before.st_size)
        after = path.stat()
    except OSError as error:
        raise CheckpointError(f"checkpoint {printable(url, 200)} cannot be read: {error.strerror}") from None
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise CheckpointError(f"checkpoint {printable(url, 200)} was written to while it was read")
    return content


def inspect_in_background(url: str, stamp: str, cache: Path) -> Content | None:
    """The same, by a process of its own: None until it is done. Ask again, with the same stamp.

    Raises CheckpointError as `inspect` does. A process that was killed is started anew by the next call.
    """
    folder = cache / "inspections"
    folder.mkdir(parents=True, exist_ok=True)
    answer = folder / f"{digest([url, stamp])}.json"
    if not answer.exists():
        _forget_old(folder)
        if not _is_running(answer):
            command = [sys.executable, "-m", "resources.inspection", str(answer), str(folder)]
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            assert process.stdin is not None
            with process.stdin as told:
                told.write(os.fsencode(url))
        return None
    found = json.loads(answer.read_bytes())
    answer.unlink()
    _lock_of(answer).unlink(missing_ok=True)
    if "error" in found:
        raise CheckpointError(found["error"])
    return Content(**found)


def _lock_of(answer: Path) -> Path:
    return answer.with_suffix(".lock")


def _is_running(answer: Path) -> bool:
    try:
        with FileLock(_lock_of(answer), blocking=False):
            return False
    except Timeout:
        return True


def _forget_old(folder: Path) -> None:
    for path in folder.iterdir():
        try:
            if time.time() - path.stat().st_mtime > KEPT_SECONDS:
                path.unlink()
        except OSError:
            continue  # another process was faster, or it is a download in progress


def main(url: str, answer: Path, work: Path) -> None:
    """Inspect `url` and write the answer, unless another process is at it."""
    try:
        with FileLock(_lock_of(answer), blocking=False), tempfile.TemporaryDirectory(dir=work) as scratch:
            try:
                content = inspect(url, Path(scratch))
                found: dict[str, object] = {"sha256": content.sha256, "size": content.size}
            except EdgeAssetsError as error:
                found = {"error": str(error)}
            whole = Path(scratch) / "answer"
            whole.write_text(json.dumps(found))
            os.replace(whole, answer)
    except Timeout:
        return


if __name__ == "__main__":
    main(os.fsdecode(sys.stdin.buffer.read()), Path(sys.argv[1]), Path(sys.argv[2]))
