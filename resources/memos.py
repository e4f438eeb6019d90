"""What recipes made: one record per recipe, named by the recipe's hash, and whether it is believed."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

from edge_assets.core.types import Recipe, Result, checked_sha256
from edge_assets.errors import Malformed
from edge_assets.hashing import canonical_json, digest
from resources import trust
from resources.blobs import FRESH, Blobs, touch_if_old
from resources.records import Records, warn_once
from resources.storage import Storage

Check = Callable[[Result], object]  # raises Malformed for a result that is not what its step makes
OWN_MEMOS: set[str] = set()  # digests of what this process wrote: it trusts itself


@dataclass(frozen=True)
class Memos:
    """The memos of a store. `verifier` decides which count; None: all do."""

    records: Records
    blobs: Blobs
    verifier: trust.Verifier | None

    def recall(self, recipe: Recipe, check: Check | None = None) -> Result | None:
        """What `recipe` made before, or None. A corrupted blob is named, set aside and not returned.

        A memo that has another shape, of which `check` raises Malformed, that is another recipe's, or that is not
        signed by a trusted key where that is asked for, is absent too, with a warning that names it. What is recalled
        is marked as used.
        """
        key = memo_key(recipe.sha256)
        memo = self.records.read(key)
        if memo is None:
            return None
        try:
            result = Result.from_dict(memo, reused=True)
            if check is not None:
                check(result)
        except Malformed as error:
            self.records.is_absent(key, str(error))
            return None
        if _plain(result.recipe) != _plain(recipe):
            self.records.is_absent(key, "it is the memo of another recipe than its name says")
            return None
        if not self._is_trusted(memo):
            warn_once(
                f"{trust.VARIABLE} is set, and results in {self.records.storage.shown()} are not signed by a trusted "
                f"key: they are taken as absent, and built here"
            )
            return None
        if not self._is_intact(result) or not self._mark_used(key):
            return None
        return result

    def keep(self, result: Result) -> None:
        """Write the memo of a result whose blobs are in the store: from now on it is visible."""
        memo = result.to_dict()
        self.records.write(memo_key(result.recipe.sha256), memo)
        OWN_MEMOS.add(digest(memo))

    def vouched(self, result: Result) -> Result | None:
        """What is believed of a result that came in another way than `recall`, such as in a pointer.

        That is the result as it is where all memos are taken, else what its own memo says, or None where no memo of it
        is trusted.

        What says that something was refused or failed only takes away, and needs no memo.
        """
        if self.verifier is None or result.refused is not None:
            return result
        recalled = self.recall(result.recipe)
        if recalled is None or "failed" not in result.facts:
            return recalled
        return replace(recalled, facts={**recalled.facts, "failed": result.facts["failed"]})

    def _is_trusted(self, memo: Mapping[str, object]) -> bool:
        if self.verifier is None or digest(memo) in OWN_MEMOS:
            return True
        return self.verifier.verify(trust.signed_content(memo), memo.get(trust.SIGNATURE))

    def _is_intact(self, result: Result) -> bool:
        if result.artifact is None:
            return True
        return all(self.blobs.is_intact(file) for file in result.artifact.files)

    def _mark_used(self, key: str) -> bool:
        """Set a memo's time, by which it is collected, to now. False if it was collected this very moment."""
        if self.blobs.read_only:
            return True
        storage = self.records.storage
        if storage.is_local:
            return touch_if_old(storage, key)
        return _touch_once(storage, key, int(time.time() / FRESH))  # each time would be two requests for each memo


def memo_key(sha256: str) -> str:
    """Where in a store the memo of the recipe with that hash is. Raises Malformed for what is no hash."""
    return f"recipes/{checked_sha256(sha256)[:2]}/{sha256}.json"


def _plain(recipe: Recipe) -> object:
    """A recipe as it is after a way through JSON: tuples are lists, keys are texts."""
    return json.loads(canonical_json(asdict(recipe)))


@lru_cache(maxsize=2**12)
def _touch_once(storage: Storage, key: str, _period: int) -> bool:
    return touch_if_old(storage, key)
