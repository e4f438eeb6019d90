"""Where things are: the state folder, the project's settings, the addresses of the two UIs; and who may reach them."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from edge_assets.addresses import without_credentials
from edge_assets.errors import EdgeAssetsError

TOKEN_LENGTH = 16
LEAST_DATA_MEMORY = 2**24


@dataclass(frozen=True)
class Home:
    """All state lives under one folder, `EDGE_ASSETS_HOME` (default `./.edge-assets`)."""

    root: Path

    @property
    def dagster(self) -> Path:
        return self.root / "dagster"

    @property
    def mlflow(self) -> Path:
        return self.root / "mlflow"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def emulators(self) -> Path:
        """Emulated CPUs; `EDGE_ASSETS_EMULATORS` lets several state folders share them."""
        shared = os.environ.get("EDGE_ASSETS_EMULATORS")
        if shared:
            return Path(shared).resolve()
        return self.cache / "emulators"

    @property
    def releases(self) -> Path:
        return self.root / "releases"

    def comparison(self, model: str, before: str, after: str) -> Path:
        """The page of two checkpoints side by side."""
        return self.root / "comparisons" / model / f"{after}-against-{before}.html"

    @property
    def store(self) -> str:
        """A folder, or an fsspec URL such as s3://bucket/prefix (`EDGE_ASSETS_STORE`)."""
        return os.environ.get("EDGE_ASSETS_STORE") or str(self.root / "store")

    @property
    def tracking_uri(self) -> str:
        """MLflow's own variable decides; the default is a SQLite file that `edge-assets serve` shows."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.mlflow / 'mlflow.db'}"


def home() -> Home:
    """The state folder of this process."""
    return Home(Path(os.environ.get("EDGE_ASSETS_HOME") or ".edge-assets").resolve())


def dagster_url() -> str:
    """Where links in MLflow point."""
    return without_credentials(os.environ.get("EDGE_ASSETS_DAGSTER_URL", "http://127.0.0.1:3000")).rstrip("/")


def mlflow_url() -> str:
    """Where links in Dagster point: the tracking server if it has a web address, else `serve`'s."""
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
    served = tracking if tracking.startswith("http") else "http://127.0.0.1:5000"
    return without_credentials(os.environ.get("EDGE_ASSETS_MLFLOW_URL", served)).rstrip("/")


def home_mode() -> int:
    """The permissions of the state folder, `EDGE_ASSETS_HOME_MODE` in octal. Default: its owner's alone."""
    given = os.environ.get("EDGE_ASSETS_HOME_MODE") or "0700"
    if not re.fullmatch(r"[0-7]{3,4}", given) or given[-3] != "7":
        raise EdgeAssetsError(f"EDGE_ASSETS_HOME_MODE={given}: give permissions such as 0750, with all of the owner's")
    return int(given, 8)


def allowed_hosts() -> frozenset[str]:
    """Names besides 127.0.0.1 and localhost by which people reach the servers (`EDGE_ASSETS_ALLOWED_HOSTS`)."""
    given = os.environ.get("EDGE_ASSETS_ALLOWED_HOSTS", "")
    names = [name.strip().lower() for name in given.split(",") if name.strip()]
    for name in names:
        if not re.fullmatch(r"([a-z0-9._-]+|\[[0-9a-f:]+\])(:[0-9]+)?", name):
            raise EdgeAssetsError(
                f"EDGE_ASSETS_ALLOWED_HOSTS: '{name}' is not a host name. Give names as they stand in the browser's "
                f"address, with the port where one stands there: models.example.com,localhost:8000"
            )
    return frozenset(names)


def token() -> str | None:
    """What the servers ask for (`EDGE_ASSETS_TOKEN`). None: nothing."""
    given = os.environ.get("EDGE_ASSETS_TOKEN")
    if not given:
        return None
    if len(given) < TOKEN_LENGTH or not re.fullmatch(r"[!-~]+", given):
        raise EdgeAssetsError(
            f"EDGE_ASSETS_TOKEN: give at least {TOKEN_LENGTH} letters and digits without spaces, such as what "
            f"`openssl rand -hex 16` prints"
        )
    return given


def data_memory_bytes() -> int:
    """What a data set may take of memory at a time, `EDGE_ASSETS_DATA_MEMORY` in bytes. Default: 1 GiB."""
    given = os.environ.get("EDGE_ASSETS_DATA_MEMORY") or str(2**30)
    if not re.fullmatch(r"[0-9]+", given) or int(given) < LEAST_DATA_MEMORY:
        raise EdgeAssetsError(
            f"EDGE_ASSETS_DATA_MEMORY={given}: give a number of bytes, at least {LEAST_DATA_MEMORY}, such as {2**30}"
        )
    return int(given)
