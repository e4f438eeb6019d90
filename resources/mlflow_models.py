"""Folders in the layout that MLflow loads models from: around a variant's very bytes, or a whole released folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from edge_assets.core.types import Artifact
from edge_assets.later import np
from resources.store import ArtifactStore

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

Example: TypeAlias = "dict[str, np.ndarray]"
CODE = Path(__file__).with_name("released_model.py")  # not imported here: it imports MLflow
RELEASED = "release"  # the flavor of a released folder: MLflow's python_function, by the folder's own code
EXAMPLE_NUMBERS = 20_000  # in a larger input example, MLflow's JSON of it would outweigh the model


def write_model(
    store: ArtifactStore,
    about: Mapping[str, Any],
    artifact: Path,
    folder: Path,
    model: Model,
) -> None:
    """Write the layout of the flavor that `about` names.

    What a model needs is stated: MLflow would otherwise find it by running the model in a new process.
    """
    signature = _signature(about)
    if about["flavor"] == RELEASED:
        _write_release(about, artifact, folder, model, signature)
        return
    example = None
    if "example" in about:
        example = _example(store.checkout(Artifact.from_dict(about["example"])), "")
    if about["flavor"] == "onnx":
        own = _write_onnx(about, artifact, folder, model, signature, example)
    else:
        own = _write_torchscript(about, artifact, folder, model, signature, example)
    assert own.is_file()
    shutil.copyfile(artifact, own)  # what MLflow wrote is the same graph in other bytes


def _write_onnx(
    about: Mapping[str, Any],
    artifact: Path,
    folder: Path,
    model: Model,
    signature: ModelSignature,
    example: Example | None,
) -> Path:
    """Returns where the graph is."""
    import mlflow
    import onnx

    mlflow.onnx.save_model(
        onnx.load(artifact),
        str(folder),
        mlflow_model=model,
        signature=signature,
        input_example=example,
        pip_requirements=about["requirements"],
        save_as_external_data=False,
    )
    return folder / "model.onnx"


def _write_torchscript(
    about: Mapping[str, Any],
    artifact: Path,
    folder: Path,
    model: Model,
    signature: ModelSignature,
    example: Example | None,
) -> Path:
    """Returns where the module is."""
    import mlflow
    import torch

    only = None
    if example and len(example) == 1:  # MLflow hands one array to a module, and no more
        (only,) = example.values()
    mlflow.pytorch.save_model(
        torch.jit.load(artifact),
        str(folder),
        mlflow_model=model,
        signature=signature,
        input_example=only,
        pip_requirements=about["requirements"],
        serialization_format="pickle",  # for a TorchScript module: its own zip format, no pickled code
    )
    return folder / "data" / "model.pth"


def _write_release(
    about: Mapping[str, Any],
    released: Path,
    folder: Path,
    model: Model,
    signature: ModelSignature,
) -> None:
    import mlflow

    mlflow.pyfunc.save_model(
        str(folder),
        mlflow_model=model,
        python_model=str(CODE),  # as code, not as an object: nothing is pickled
        artifacts={"release": released.as_uri()},
        signature=signature,
        input_example=_example(released / "sample.npz", "raw_"),
        pip_requirements=about["requirements"],
    )


def _example(path: Path, prefix: str) -> Example | None:
    """The arrays of a file whose names begin with `prefix`, without it; None where they have too many numbers."""
    found = {}
    with np.load(path, allow_pickle=False) as arrays:
        for name in arrays.files:
            if name.startswith(prefix):
                found[name.removeprefix(prefix)] = arrays[name]
    numbers = sum(array.size for array in found.values())
    return found if numbers <= EXAMPLE_NUMBERS else None


def _signature(about: Mapping[str, Any]) -> ModelSignature:
    from mlflow.models import ModelSignature

    return ModelSignature(_schema(about["inputs"]), _schema(about["outputs"]))


def _schema(specs: Sequence[Mapping[str, Any]]) -> Schema:
    from mlflow.types import Schema

    return Schema([_column(spec) for spec in specs])


def _column(spec: Mapping[str, Any]) -> TensorSpec | ColSpec:
    """A tensor; texts are a column of strings, because MLflow's tensors are of numbers."""
    from mlflow.types import ColSpec, DataType, TensorSpec

    if spec["dtype"] == "string":
        return ColSpec(DataType.string, spec["name"])
    shape = [-1 if isinstance(axis, str) else axis for axis in spec["shape"]]
    return TensorSpec(np.dtype(spec["dtype"]), shape, spec["name"])
