"""Whose results count: where the writers of a shared store are not all trusted, only signed memos are taken.

`EDGE_ASSETS_TRUSTED_KEYS` switches it on. A memo that this process wrote itself needs no signature. What is not
trusted is absent: it is built here, and nothing of another's reaches a session.
"""

import logging
import os
from collections.abc import Mapping
from typing import Protocol

from edge_assets.hashing import canonical_json

log = logging.getLogger(__name__)
VARIABLE = "EDGE_ASSETS_TRUSTED_KEYS"
SIGNATURE = "signature"  # the memo's field that holds one; it signs all the others


class Verifier(Protocol):
    """Decides whether a memo was signed by a key that is trusted here."""

    def verify(self, content: bytes, signature: object) -> bool:
        """Whether `signature`, as it is in the memo (None if there is none), is a trusted key's for `content`."""
        ...


class NothingVerifies:
    """Trusted keys are named, and this version has nothing that checks a signature: no memo of another is taken."""

    def verify(self, content: bytes, signature: object) -> bool:  # noqa: ARG002  # as in Verifier
        return False


def verifier() -> Verifier | None:
    """What memos are checked with, or None where every writer of the store is trusted."""
    return NothingVerifies() if os.environ.get(VARIABLE) else None


def signed_content(memo: Mapping[str, object]) -> bytes:
    """What a memo's signature is made of: all of it but the signature."""
    unsigned = {name: value for name, value in memo.items() if name != SIGNATURE}
    return canonical_json(unsigned).encode()
