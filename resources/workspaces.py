"""Folders of this machine's cache: private ones for work in progress, kept ones for work that resumes, and locks."""

import errno
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from edge_assets.errors import StoreError
from edge_assets.hashing import canonical_json
from resources import folders

WORK = "work-"  # how names of private folders in the cache begin
FULL = (errno.ENOSPC, errno.EDQUOT)
UNWRITABLE = (errno.EACCES, errno.EROFS, errno.EPERM)


@dataclass(frozen=True)
class Workspaces:
    """What a store needs of the local folder `cache`."""

    cache: Path

    @contextmanager
    def private(self) -> Iterator[Path]:
        """A private folder, gone afterwards.

        The kernel knows whether its process lives, so that a killed one's can be swept.
        """
        parent = self.cache / "work"
        with ExitStack() as stack:
            with disk_errors(str(parent)):
                folder = stack.enter_context(folders.private_folder(parent, WORK))
            yield folder

    @contextmanager
    def holding(self, record: Mapping[str, object]) -> Iterator[Path]:
        """A private file with a record's JSON, gone afterwards."""
        with self.private() as folder:
            file = folder / "data.json"
            with disk_errors(str(file)):
                file.write_text(canonical_json(record))
            yield file

    @contextmanager
    def kept(self, name: str) -> Iterator[Path]:
        """A folder of that name for work that resumes: it outlives a killed or failed build, and no other."""
        folder = self.cache / "kept" / name
        with disk_errors(str(folder)):
            folder.mkdir(parents=True, exist_ok=True)
        yield folder
        shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """One at a time on this machine does what goes by that name."""
        folder = self.cache / "locks"
        with disk_errors(str(folder)):
            folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / name):
            yield

    def sweep(self) -> None:
        """Remove what killed processes left of their private folders."""
        folders.sweep(self.cache / "work", WORK)


@contextmanager
def disk_errors(where: str, every: bool = False) -> Iterator[None]:
    """Turns a full or unwritable disk into one clear message, and with `every` any other error of the system too."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise StoreError(f"no space left on the disk while writing {where}; nothing was half-written") from error
        if every or error.errno in UNWRITABLE:
            raise StoreError(f"cannot write {where}: {error.strerror}") from error
        raise
