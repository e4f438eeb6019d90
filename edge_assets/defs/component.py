"""A model as a Dagster component, registered by a `defs.yaml` instead of by name in pyproject.toml."""

from pathlib import Path
from string import Template
from typing import Self

import click
import dagster as dg
import yaml
from pydantic import BaseModel, Field

from edge_assets.defs.location import model_definitions
from edge_assets.errors import InvalidSpec
from edge_assets.registry import check_alone, check_targets, registry
from edge_assets.spec.attributes import Attributes, attributes_type, model_spec
from edge_assets.spec.model import ModelSpec
from edge_assets.spec.project import declared_at, defs_file, root_module


class ScaffoldOptions(BaseModel):
    """What `dg scaffold defs edge_assets.EdgeModel` takes besides the folder's name."""

    spec: str | None = Field(default=None, description="A ModelSpec in Python, as package.module:NAME")


class ModelScaffolder(dg.Scaffolder[ScaffoldOptions]):
    """Writes a defs.yaml that names a ModelSpec, or one with the fields of a small model to edit."""

    @classmethod
    def get_scaffold_params(cls) -> type[ScaffoldOptions]:
        return ScaffoldOptions

    def scaffold(self, request: dg.ScaffoldRequest[ScaffoldOptions]) -> None:
        """Raises UsageError for the format `python`, in which pyproject.toml is what registers a model."""
        if request.scaffold_format != "yaml":
            raise click.UsageError(
                "a model is registered by YAML, or in Python by a ModelSpec that pyproject.toml names, in "
                "[tool.edge_assets] models"
            )
        if request.params.spec is not None:
            dg.scaffold_component(request, {"spec": request.params.spec})
            return
        folder = request.target_path.parent if request.append else request.target_path
        dg.scaffold_component(request, example(folder.name))


def example(name: str) -> dict[str, object]:
    """The attributes of the model that `edge-assets init` makes, under another name; elsewhere, to be edited."""
    text = Template(Path(__file__).with_name("example.yaml").read_text())
    attributes: dict[str, object] = yaml.safe_load(text.substitute(name=name, package=root_module() or "package"))
    return attributes


@dg.scaffold_with(ModelScaffolder)
class EdgeModel(dg.Component):
    """A PyTorch model that is built, verified, measured and released for its targets.

    Give `spec`, which names a ModelSpec in Python (`package.module:NAME`), or the ModelSpec's fields. See
    docs/adding-a-model.md of edge-assets.
    """

    def __init__(self, model: ModelSpec) -> None:
        self.model = model

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        return dg.ComponentTypeSpec(produces=["asset", "asset_check", "job", "schedule", "sensor", "resource"])

    @classmethod
    def get_model_cls(cls) -> type[Attributes]:
        return attributes_type()

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:  # noqa: ARG003  # Dagster's signature
        """Raises InvalidSpec, as for a model that pyproject.toml names."""
        registry()  # it puts the project on the import path
        if not isinstance(attributes, Attributes):
            raise InvalidSpec("attributes", "none are given")
        return cls(model_spec(attributes))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The same definitions as of a model that pyproject.toml names.

        Raises InvalidSpec if a target is unknown, or another model has this one's name.
        """
        check_targets(self.model)
        check_alone(self.model, _origin(context), registry().origins)
        return model_definitions(self.model)


def _origin(context: dg.ComponentLoadContext) -> str:
    """Where the component is declared, as the registry calls it."""
    place = context.component_path
    file = defs_file(place.file_path) or place.file_path
    number = place.instance_key if isinstance(place.instance_key, int) else 0
    return declared_at(file, context.defs_module_path, number)
