"""A build that logs to a real MLflow 2 server, which `make compat` installs in an environment of its own."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, Project
from tests.serving import free_port

MLFLOW2 = ROOT / ".tools" / "mlflow2" / "bin" / "mlflow"
pytestmark = pytest.mark.skipif(not MLFLOW2.exists(), reason="no MLflow 2 in .tools/mlflow2: make compat installs it")

LOAD = """
import json, sys
import mlflow, numpy as np
model = mlflow.pyfunc.load_model(sys.argv[1])
sample = np.load(sys.argv[2])
outputs = model.predict({"image": sample["raw_image"]})
print(json.dumps({name: float(np.abs(value - sample["output_" + name]).max()) for name, value in outputs.items()}))
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of an MLflow 2 server."""
    port, folder = free_port(), tmp_path / "server"
    folder.mkdir()
    command = [str(MLFLOW2), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    places = ["--backend-store-uri", f"sqlite:///{folder / 'db'}", "--artifacts-destination", (folder / "a").as_uri()]
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTHON"))}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, *places], stdout=log, stderr=log, env=own, cwd=folder)
    try:
        deadline = time.monotonic() + 120
        while "Listening at" not in (folder / "log").read_text():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def test_a_build_logs_to_a_real_mlflow_2_server_and_says_once_what_that_lacks(project: Project, server: str) -> None:
    version = subprocess.run([MLFLOW2, "--version"], capture_output=True, text=True, check=True).stdout
    assert "version 2." in version
    project.environment["MLFLOW_TRACKING_URI"] = server
    result = project.build()
    assert result.returncode == 0, result.stdout + result.stderr
    printed = result.stdout + result.stderr
    assert "1 built, 0 up to date, 0 failed" in printed
    assert printed.count("this MLflow server is of a version before 3") == 1, printed
    store = project.home / "store"
    assert not list((store / "pointers" / "outbox").rglob("*.json")), "nothing waits"
    assert not (store / "pointers" / "outbox-refused").exists()
    with closing(sqlite3.connect(project.folder / "server" / "db")) as database:
        runs = {name for (name,) in database.execute("SELECT name FROM runs WHERE lifecycle_stage = 'active'")}
        statuses = {status for (status,) in database.execute("SELECT status FROM runs")}
        metrics = {name for (name,) in database.execute("SELECT DISTINCT key FROM metrics")}
        (alias,) = database.execute("SELECT alias, version FROM registered_model_aliases").fetchall()
    assert {"onnx_model", "onnx_int8_static"} <= runs
    assert statuses == {"FINISHED"}
    assert "accuracy" in metrics
    assert alias == ("released", 1)
    (release,) = (project.home / "releases" / "tiny" / "graviton3").iterdir()
    loaded = subprocess.run(
        [sys.executable, "-c", LOAD, "models:/tiny.graviton3@released", str(release / "sample.npz")],
        env=project.env(),
        cwd=project.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert loaded.returncode == 0, loaded.stderr
    differences = json.loads(loaded.stdout.splitlines()[-1])
    assert differences.keys() == {"logits"}
    assert np.isfinite(differences["logits"])
    assert differences["logits"] < 0.01
    again = project.build()
    assert "up to date, nothing rebuilt" in again.stdout, again.stdout + again.stderr
