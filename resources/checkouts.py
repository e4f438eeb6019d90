"""Artifacts as files of this machine: checked out into its cache, and exported to folders that people read."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from edge_assets.core.types import Artifact, File
from edge_assets.hashing import digest, sha256_of
from resources import folders
from resources.blobs import Blobs
from resources.workspaces import Workspaces, disk_errors

STAGING = ".export-"  # how names of private folders beside an exported folder begin


@dataclass(frozen=True)
class Checkouts:
    """Local copies of artifacts."""

    blobs: Blobs
    workspaces: Workspaces

    def checkout(self, artifact: Artifact) -> Path:
        """Local path of the artifact's files, verified: the file itself if there is one, else their folder.

        Raises StoreError, naming the blob, if its content is not what its name says; the blob is set aside,
        so that the next run builds it again.
        """
        self.blobs.records.check_version()
        tree = self.workspaces.cache / "trees" / artifact.sha256
        with disk_errors(str(tree), every=True):
            try:
                os.utime(tree)  # in use: the collector goes by it
            except FileNotFoundError:
                pass  # not checked out yet
            for file in artifact.files:
                if not _is_right(tree / file.path, file):
                    self.blobs.fetch(file, tree / file.path)
            for file in artifact.files:
                if not (tree / file.path).is_file():  # collected while the others were looked at
                    self.blobs.fetch(file, tree / file.path)
        if len(artifact.files) == 1:
            return tree / artifact.files[0].path
        return tree

    def export(self, artifact: Artifact, folder: Path) -> None:
        """Put a copy of the artifact at `folder`, whatever is there now.

        Who reads `folder` meanwhile finds the former content or the new one, whole (see `folders.replace`). A folder
        that holds just this already is left alone. Raises StoreError.
        """
        folder = folder.absolute()
        name = f"export-{digest(str(folder))}"
        with self.workspaces.alone(name), disk_errors(str(folder), every=True):
            if _holds_exactly(folder, artifact):
                return
            source = self.checkout(artifact)
            folder.parent.mkdir(parents=True, exist_ok=True)
            folders.sweep(folder.parent, STAGING)
            with folders.private_folder(folder.parent, STAGING) as staging:  # renames do not cross file systems
                copy = staging / "copy"
                _copy(artifact, source, copy)
                folders.replace(copy, folder)


def _copy(artifact: Artifact, source: Path, copy: Path) -> None:
    """Copy what `checkout` gave into the folder `copy`."""
    for file in artifact.files:
        original = source if source.is_file() else source / file.path
        (copy / file.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(original, copy / file.path)


def _is_right(local: Path, file: File) -> bool:
    try:
        return sha256_of(local) == file.sha256
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return False


def _holds_exactly(folder: Path, artifact: Artifact) -> bool:
    """Whether a folder holds the artifact's files, and no others."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    found = set()
    for path in folder.rglob("*"):
        if path.is_symlink():
            return False
        if not path.is_dir():
            found.add(path.relative_to(folder).as_posix())
    if found != {file.path for file in artifact.files}:
        return False
    return all(sha256_of(folder / file.path) == file.sha256 for file in artifact.files)
