"""Data sets as MLflow shows them with a run: name, digest, where the samples come from, and their fields."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

DIGEST_LETTERS = 36  # that MLflow keeps of a digest; the source has the whole
CONTEXT_TAG = "mlflow.data.context"


def dataset_input(about: Mapping[str, Any]) -> "DatasetInput":
    """A data set of the outbox as MLflow's."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    columns = []  # MLflow's pages list columns, and say of tensors only that there are some
    for field in about["fields"]:
        shape = f" {field['shape']}" if field["shape"] else ""
        columns.append({"name": field["name"], "type": f"{field['dtype']}{shape}"})
    dataset = Dataset(
        name=about["name"],
        digest=about["digest"][:DIGEST_LETTERS],
        source_type="code",
        source=json.dumps({"tags": about["source"]}),
        schema=json.dumps({"mlflow_colspec": columns}),
        profile=json.dumps({"num_rows": about["samples"]}),
    )
    return DatasetInput(dataset, tags=[InputTag(CONTEXT_TAG, about["context"])])
