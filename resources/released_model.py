"""A released folder as a model of MLflow's, by the folder's own preprocess.py and runtime.py.

MLflow keeps a copy of this file with each release and runs it where the model is loaded: it imports nothing of
edge-assets. Every file of the folder is checked against its hash in manifest.json before any of it is imported.
"""

import ast
import hashlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

MANIFEST = "manifest.json"


class Release:
    """Raw fields by name, or a data frame with a column for each, to outputs by name."""

    def load_context(self, context: Any) -> None:
        """Raises MlflowException for a folder that is not as it was released, and where its runtime cannot run."""
        folder = Path(context.artifacts["release"])
        manifest = json.loads((folder / MANIFEST).read_text())
        contents = verified(folder, manifest)
        self.preprocessing = module("preprocess", folder, contents).from_dict(manifest["preprocessing"])
        self.run = opened(folder, manifest, contents)

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # hints would be a schema
        """Outputs by name. Raises ValueError for fields that the preprocessing does not take."""
        del context, params
        return self.run(self.preprocessing.apply(fields(model_input)))


class ReleasedModel(Release, PythonModel):
    """The same to MLflow, which looks for type hints where `predict` is defined, and warns where there are none."""


def verified(folder: Path, manifest: dict[str, Any]) -> dict[str, bytes]:
    """The code of the folder by name, from the very bytes that were checked. Raises MlflowException."""
    contents = {}
    for file in manifest["files"]:
        path, expected = file["path"], file["sha256"]
        try:
            if path.endswith(".py"):
                contents[path] = (folder / path).read_bytes()
                found = hashlib.sha256(contents[path]).hexdigest()
            else:  # weights are not kept in memory
                with (folder / path).open("rb") as opened_file:
                    found = hashlib.file_digest(opened_file, "sha256").hexdigest()
        except OSError as error:
            raise MlflowException(f"{path} of the release cannot be read: {error.strerror}") from None
        if found != expected:
            raise MlflowException(f"{path} is not the released file: sha256 {found}, expected {expected}")
    return contents


def opened(folder: Path, manifest: dict[str, Any], contents: dict[str, bytes]) -> Any:
    """A function from the model's inputs to its outputs. Raises MlflowException saying what the runtime needs."""
    title = f"{manifest['model']} for {manifest['target']} ({manifest['precision']} {manifest['format']})"
    if "runtime.py" not in contents:
        raise MlflowException(f"{title} runs on its target only: no Python package here runs {manifest['runtime']}")
    about = ast.get_docstring(ast.parse(contents["runtime.py"])) or ""
    try:
        run = module("runtime", folder, contents).load(folder / manifest["file"], manifest)
    except (ImportError, SystemExit) as error:  # loaders end the script that they were written for
        raise MlflowException(f"{title} cannot run here: {error}. {about}") from None
    if "layout" not in manifest:
        return run
    return module("layout", folder, contents).arranged(run, manifest["layout"])


def module(name: str, folder: Path, contents: dict[str, bytes]) -> ModuleType:
    """A module of the folder, by a name that no other release's has."""
    path = f"{name}.py"
    made = ModuleType(f"released_{hashlib.sha256(bytes(folder / path)).hexdigest()[:16]}_{name}")
    made.__file__ = str(folder / path)
    sys.modules[made.__name__] = made  # dataclasses look there for it
    exec(compile(contents[path], made.__file__, "exec"), made.__dict__)
    return made


def fields(model_input: Any) -> dict[str, np.ndarray]:
    """What MLflow hands over, as arrays by name: of numbers, or of strings."""
    found = {}
    for name in model_input:
        values = model_input[name]
        array = np.array(values.tolist()) if hasattr(values, "tolist") else np.asarray(values)
        is_as_given = isinstance(values, np.ndarray) and values.dtype != object
        found[str(name)] = values if is_as_given else array
    return found


set_model(ReleasedModel())
