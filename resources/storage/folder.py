"""Files in a folder. What is absent is a FileNotFoundError, what else goes wrong an OSError."""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from resources.storage.files import Stat

CHUNK = 2**20
TEMPORARY = "tmp"  # files on their way to their name, and those on their way out
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


@dataclass(frozen=True)
class Folder:
    """The files below a folder of this machine."""

    root: Path

    def read(self, key: str) -> bytes:
        return self.path(key).read_bytes()

    def stat(self, key: str) -> Stat:
        return _stat(self.path(key), key)

    def fetch(self, key: str, local: Path) -> None:
        shutil.copyfile(self.path(key), local)

    def commit(self, source: Path, key: str) -> None:
        final = self.path(key)
        with self._temporary_copy(source) as temporary:
            final.parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary, final)

    def create(self, source: Path, key: str) -> bool:
        """False where the file is there already."""
        final = self.path(key)
        with self._temporary_copy(source) as temporary:
            final.parent.mkdir(parents=True, exist_ok=True)
            return link(temporary, final)

    def touch(self, key: str) -> None:
        os.utime(self.path(key))

    def move(self, key: str, destination: str) -> None:
        target = self.path(destination)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self.path(key), target)
        os.utime(target)

    def remove(self, key: str) -> None:
        self.path(key).unlink()

    def walk(self, folder: str) -> Iterator[Stat]:
        """Every file anywhere below a folder, which need not exist."""
        for where, _folders, names in os.walk(self.root / folder):
            for name in names:
                path = Path(where, name)
                try:
                    yield _stat(path, path.relative_to(self.root).as_posix())
                except FileNotFoundError:
                    continue  # removed since it was listed

    def names(self, folder: str) -> list[str]:
        """Names of the files directly in a folder."""
        return [entry.name for entry in os.scandir(self.path(folder)) if entry.is_file()]

    def path(self, key: str) -> Path:
        return self.root / key

    @contextmanager
    def _temporary_copy(self, source: Path) -> Iterator[Path]:
        """A whole copy on the store's disk. Its name is beside no final name, so that leftovers are found."""
        temporary = self.path(f"{TEMPORARY}/{uuid.uuid4().hex}")
        temporary.parent.mkdir(parents=True, exist_ok=True)
        try:
            with source.open("rb") as reader, temporary.open("wb") as writer:
                shutil.copyfileobj(reader, writer, CHUNK)
                writer.flush()
                os.fsync(writer.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


def link(temporary: Path, final: Path) -> bool:
    """Give a file a second name, unless that is taken. Unlike a rename, neither way replaces."""
    try:
        os.link(temporary, final)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        try:  # a file system without hard links: exclusive, though not whole at once
            with final.open("xb") as writer:
                writer.write(temporary.read_bytes())
        except FileExistsError:
            return False
    return True


def _stat(path: Path, key: str) -> Stat:
    stat = path.stat()
    return Stat(
        key=key,
        size=stat.st_size,
        modified=stat.st_mtime,
        identity=(stat.st_mtime_ns, stat.st_ino),
    )
