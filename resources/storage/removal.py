"""Removing a file that nobody uses, while others may just begin to use it."""

import re
import uuid
from pathlib import Path

from resources.storage.folder import TEMPORARY, Folder, link
from resources.storage.storage import Storage

REMOVING = "removing-"  # names in TEMPORARY that go back to their place if whoever removed them was killed
REMOVABLE = re.compile(r"(blobs|recipes|pointers|corrupt)(/[^/]+)+")  # keys of what is ever removed


def remove_unused(storage: Storage, key: str, since: float) -> bool:
    """Remove a file unless it was written or touched after `since`. Returns whether it was removed.

    A folder's file is set aside before it is looked at the last time, so that a process that touches it finds it
    either kept or gone, and knows. On an object store the last look is one request before the removal.
    """
    if isinstance(storage.backend, Folder):
        with storage.errors("remove", key):
            return _remove_from_folder(storage.backend, key, since)
    stat = storage.stat(key)
    if stat is None or stat.modified > since:
        return False
    storage.remove(key)
    return True


def put_back_unfinished(storage: Storage) -> None:
    """Return to its place what a killed process was about to remove from a folder."""
    if not isinstance(storage.backend, Folder):
        return
    with storage.errors("write", TEMPORARY):
        for aside in storage.backend.path(TEMPORARY).glob(f"{REMOVING}*"):
            key = aside.name.removeprefix(REMOVING).rpartition("~")[0].replace("~", "/")
            if REMOVABLE.fullmatch(key) and ".." not in key.split("/"):  # whoever may write here chose the name
                _put_back(aside, storage.backend.path(key))


def _remove_from_folder(folder: Folder, key: str, since: float) -> bool:
    name = key.replace("/", "~")
    aside = folder.path(f"{TEMPORARY}/{REMOVING}{name}~{uuid.uuid4().hex}")
    aside.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.path(key).rename(aside)
        if aside.stat().st_mtime > since:
            _put_back(aside, folder.path(key))
            return False
        aside.unlink()
    except FileNotFoundError:
        return False  # another was faster
    return True


def _put_back(aside: Path, place: Path) -> None:
    link(aside, place)  # unless it was written anew meanwhile
    aside.unlink(missing_ok=True)
