"""What is in the files and folders that a data set is read from, as one hash."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from edge_assets.hashing import digest, sha256_of

Known = dict[str, list[str]]  # of each file by its name below the folder: its stamp, and the sha256 it had then


def content_digest(path: Path, notes: Path) -> str:
    """sha256 of a file, or of the names and contents of all files below a folder, but for hidden ones.

    Of a folder, what was read is noted below `notes`: a file is read again only where its size, its times or its inode
    changed, so that a plan of thousands of pictures only lists them. The hash does not depend on where the folder is.
    """
    if not path.is_dir():
        return sha256_of(path)
    note = notes / f"{digest(str(path.resolve()))}.json"
    known = _read(note)
    now: Known = {}
    for file in _files(path):
        name = file.relative_to(path).as_posix()
        stamp = _stamp(file)
        before = known.get(name)
        if before is not None and before[0] == stamp:
            now[name] = before
        else:
            now[name] = [stamp, sha256_of(file)]
    if now != known:
        _write(note, now)
    contents = [[name, sha256] for name, (_stamp_then, sha256) in sorted(now.items())]
    return digest(contents)


def _files(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            file = Path(where, name)
            if not name.startswith(".") and file.is_file():
                yield file


def _stamp(file: Path) -> str:
    """Changes whenever a file was written to or replaced, also by one of equal size and time."""
    info = file.stat()
    return f"{info.st_size}-{info.st_mtime_ns}-{info.st_ctime_ns}-{info.st_ino}"


def _read(note: Path) -> Known:
    """What was noted; nothing where there is no such note, or one of another shape: then all is read again."""
    try:
        found = json.loads(note.read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    known: Known = {}
    for name, entry in found.items():
        if isinstance(entry, list) and [type(part) for part in entry] == [str, str]:
            known[name] = entry
    return known


def _write(note: Path, known: Known) -> None:
    note.parent.mkdir(parents=True, exist_ok=True)
    written = note.with_suffix(f".{os.getpid()}")
    written.write_text(json.dumps(known))
    written.replace(note)
