"""Files below one root, in a folder or in an object store, by keys such as `blobs/ab/abcd`.

All that can go wrong outside (a full disk, a network that fails, a server that refuses or never answers) becomes one
StoreError here, so that nothing above knows botocore. What is absent is an answer and no error.
"""

from resources.storage.errors import Damaged, Denied
from resources.storage.files import Stat
from resources.storage.object_store import S3_CONFIG
from resources.storage.removal import put_back_unfinished, remove_unused
from resources.storage.storage import TEMPORARY, TRIES, Storage, open_storage

__all__ = [
    "S3_CONFIG",
    "TEMPORARY",
    "TRIES",
    "Damaged",
    "Denied",
    "Stat",
    "Storage",
    "open_storage",
    "put_back_unfinished",
    "remove_unused",
]
