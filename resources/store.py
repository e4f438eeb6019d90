"""Content-addressed artifact store with memoized recipes, on a folder or on S3 through one code path.

Layout below the root:

    store.json               the version of this layout
    blobs/ab/abcd...         file contents, named by their sha256
    recipes/ab/abcd....json  what a recipe made: its artifact's file hashes and facts
    pointers/...json         which result a (model, family, artifact, checkpoint, target) has now
    corrupt/...              blobs whose content is not what their name says, set aside
    tmp/...                  files on their way to their name

A result becomes visible only by its recipe file, which is written last and atomically: a process killed
at any point leaves nothing half-visible, and what was finished is found again by the next run.

Whoever may write the store decides what its readers get, but not where: paths stay inside, a memo counts only for the
recipe that hashes to its name, and what has another shape is absent. Nothing is removed here but pointers;
`resources.collection` frees what nothing needs, and goes by the times that `put` and `recall` set anew.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_assets.core.types import Artifact, File, Recipe, Result
from edge_assets.errors import Refused
from resources import trust
from resources.blobs import Blobs
from resources.checkouts import Checkouts
from resources.memos import Check, Memos
from resources.records import Pointers, Records
from resources.storage import Storage, open_storage
from resources.workspaces import Workspaces, disk_errors

if TYPE_CHECKING:
    from upath import UPath

Build = Callable[[Path], Mapping[str, Any]]  # writes files into the folder, returns facts; may raise Refused


class NotBuilt(Exception):
    """A read-only store was asked for something that it does not hold."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe.step)
        self.recipe = recipe


@dataclass(frozen=True)
class ArtifactStore:
    """The parts of one store, and what a pipeline does with them together."""

    records: Records
    pointers: Pointers
    blobs: Blobs
    memos: Memos
    checkouts: Checkouts
    workspaces: Workspaces
    read_only: bool  # for planning: a missing result raises NotBuilt instead of being built

    @property
    def storage(self) -> Storage:
        return self.records.storage

    @property
    def root(self) -> "UPath":
        return self.storage.root

    @property
    def is_local(self) -> bool:
        return self.storage.is_local

    @property
    def cache(self) -> Path:
        """A local folder for checked-out files and work in progress."""
        return self.workspaces.cache

    def planning(self) -> "ArtifactStore":
        """The same store, read-only: running a step on it tells whether the step has anything to do."""
        return assembled(self.storage, self.cache, self.memos.verifier, read_only=True)

    def remember(self, recipe: Recipe, build: Build, check: Check | None = None) -> Result:
        """The result of `recipe`: from the store if it is there, intact and passes `check`, else built and kept.

        Raises NotBuilt on a read-only store, StoreError if the disk is full, and whatever `build` raises,
        except Refused, which is a result too.
        """
        result = self.recall(recipe, check)
        if result is not None:
            return result
        if self.read_only:
            raise NotBuilt(recipe)
        with self.workspaces.alone(recipe.sha256):  # runs of several families want the same at once
            return self.recall(recipe, check) or _built(self, recipe, build)  # who waited finds it made

    def recall(self, recipe: Recipe, check: Check | None = None) -> Result | None:
        """What `recipe` made before, or None: `Memos.recall`."""
        return self.memos.recall(recipe, check)

    def checkout(self, artifact: Artifact) -> Path:
        """Local path of the artifact's files, verified: `Checkouts.checkout`. Raises StoreError."""
        return self.checkouts.checkout(artifact)

    def export(self, artifact: Artifact, folder: Path) -> None:
        """Put a copy of the artifact at `folder`, in one step: `Checkouts.export`. Raises StoreError."""
        self.checkouts.export(artifact, folder)

    def put(self, path: Path, name: str) -> File:
        """Keep one file's content. Returns its entry for an artifact."""
        return self.blobs.put(path, name)

    def holds(self, file: File) -> bool:
        """Whether the file's content is in the store and intact."""
        return self.blobs.holds(file)

    def workspace(self) -> AbstractContextManager[Path]:
        """A private folder, gone afterwards."""
        return self.workspaces.private()

    def kept(self, recipe: Recipe) -> AbstractContextManager[Path]:
        """A folder of this recipe's own for work that resumes: it outlives a killed or failed build, and no other."""
        return self.workspaces.kept(recipe.sha256)


def open_store(
    root: str,
    cache: Path,
    verifier: trust.Verifier | None = None,
    **storage_options: Any,
) -> ArtifactStore:
    """The store at a folder or an fsspec URL, with its local folder. `storage_options` go to fsspec.

    With a `verifier`, only memos that it verifies are taken.
    """
    return assembled(open_storage(root, storage_options), cache, verifier, read_only=False)


def assembled(
    storage: Storage,
    cache: Path,
    verifier: trust.Verifier | None,
    read_only: bool,
) -> ArtifactStore:
    """The parts of a store, put together."""
    workspaces = Workspaces(cache)
    records = Records(storage, workspaces)
    blobs = Blobs(records, read_only)
    return ArtifactStore(
        records=records,
        pointers=Pointers(records),
        blobs=blobs,
        memos=Memos(records, blobs, verifier),
        checkouts=Checkouts(blobs, workspaces),
        workspaces=workspaces,
        read_only=read_only,
    )


def _built(store: ArtifactStore, recipe: Recipe, build: Build) -> Result:
    """Build what a recipe describes, and keep it: its blobs, and then its memo."""
    started = time.perf_counter()
    artifact: Artifact | None = None
    facts: dict[str, Any] = {}
    refused: str | None = None
    with store.workspace() as folder:
        try:
            with disk_errors(str(folder)):
                facts = dict(build(folder))
            artifact = _kept(store, folder)
        except Refused as reason:
            refused = str(reason)
        seconds = round(time.perf_counter() - started, 3)
        result = Result(
            recipe=recipe,
            artifact=artifact,
            facts=facts,
            refused=refused,
            seconds=seconds,
        )
        store.memos.keep(result)
    return result


def _kept(store: ArtifactStore, folder: Path) -> Artifact | None:
    """Keep every file below a folder. None where there is none."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    if not paths:
        return None
    files = [store.put(path, path.relative_to(folder).as_posix()) for path in paths]
    return Artifact(tuple(files))
