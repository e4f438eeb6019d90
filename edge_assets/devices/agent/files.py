"""Files on a device, by content: sent once, resumed where sending was cut, checked before they count, and bounded."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path

SHA256 = re.compile(r"[0-9a-f]{64}")
MOST_ENGINES = 16
BOUND_BYTES = 4 * 2**30  # of what is kept for the next time


class FileFault(Exception):
    """A file that may not be written or is not what it should be."""


class Files:
    """The agent's folder on the device, its owner's alone: files by hash, and artifacts whose files link to these."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = root / "files"
        self.artifacts = root / "artifacts"
        self.engines = root / "engines"  # kits with engines that were built here
        for folder in (root, self.files, self.artifacts, self.engines):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def have(self, sha256: str) -> int | None:
        """Bytes of the file that came so far; None where it is whole."""
        whole = self._file(sha256)
        if whole.exists():
            os.utime(whole)  # used now: what was used last is kept longest
            return None
        part = self._part(sha256)
        return part.stat().st_size if part.exists() else 0

    def append(self, sha256: str, offset: int, payload: bytes) -> None:
        """The next bytes of a file. Raises FileFault where others came first."""
        part = self._part(sha256)
        with part.open("ab") as file:
            if file.tell() != offset:
                raise FileFault(f"bytes for position {offset} of a file of which {file.tell()} are there")
            file.write(payload)

    def finish(self, sha256: str) -> None:
        """The file is whole. Raises FileFault, and forgets what came, where it is another one."""
        part = self._part(sha256)
        found = _digest(part)
        if found != sha256:
            part.unlink()
            raise FileFault(f"what arrived has the sha256 {found}, not {sha256}: it was changed on its way")
        os.replace(part, self._file(sha256))

    def path(self, sha256: str) -> Path:
        """A whole file. Raises FileFault where there is none."""
        path = self._file(sha256)
        if not path.exists():
            raise FileFault(f"there is no file {sha256} on the device any more: try again")
        return path

    def keep(self, path: Path, sha256: str) -> int:
        """Have a file that was made here among those by content. Returns its size. Raises FileFault for another."""
        if _digest(path) != sha256:
            raise FileFault(f"{path.name} is not what it is said to be, {sha256}")
        whole = self._file(sha256)
        if not whole.exists():
            os.link(path, whole)
        return path.stat().st_size

    def part(self, sha256: str, offset: int, most: int = 2**20) -> bytes:
        """Bytes of a whole file, from `offset`."""
        with self.path(sha256).open("rb") as file:
            file.seek(offset)
            return file.read(most)

    def artifact(self, sha256: str, files: dict[str, str]) -> Path:
        """An artifact as the runtimes open it: its only file, or a folder of links to its files by path."""
        names = list(files)
        if len(names) == 1 and "/" not in names[0]:
            folder = self.artifacts / _checked(sha256)
            return self._linked(folder, files) / names[0]
        return self._linked(self.artifacts / _checked(sha256), files)

    def bound(self, most_bytes: int = BOUND_BYTES) -> int:
        """Remove what was not used for longest, until no more than that is kept. Returns the bytes removed."""
        for folder in self.artifacts.iterdir():
            shutil.rmtree(folder, ignore_errors=True)  # links alone, made anew when they are needed
        engines = sorted(self.engines.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for folder in engines[MOST_ENGINES:]:
            shutil.rmtree(folder, ignore_errors=True)
        by_age = sorted(self.files.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        kept = removed = 0
        for path in by_age:
            size = path.stat().st_size
            if kept + size > most_bytes:
                path.unlink()
                removed += size
            else:
                kept += size
        return removed

    def _linked(self, folder: Path, files: dict[str, str]) -> Path:
        if folder.exists():
            return folder
        scratch = Path(tempfile.mkdtemp(dir=self.artifacts))
        for name, sha256 in files.items():
            place = scratch / name
            if (place.is_absolute() and scratch not in place.parents) or ".." in place.parts:
                raise FileFault(f"'{name}' leaves the artifact's folder")
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(self.path(sha256), place)
        try:
            os.replace(scratch, folder)
        except OSError:  # another agent of the same lease was first
            shutil.rmtree(scratch, ignore_errors=True)
        return folder

    def _file(self, sha256: str) -> Path:
        return self.files / _checked(sha256)

    def _part(self, sha256: str) -> Path:
        return self.files / (_checked(sha256) + ".part")


def _digest(path: Path) -> str:
    """The hash of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(2**20), b""):
            digest.update(block)
    return digest.hexdigest()


def _checked(sha256: str) -> str:
    """A hash, which becomes a file's name. Raises FileFault for anything else."""
    if not isinstance(sha256, str) or not SHA256.fullmatch(sha256):
        raise FileFault(f"{sha256!r} is not a sha256")
    return sha256
