"""A model as YAML says it: the attributes of an `edge_assets.EdgeModel`, made into the same `ModelSpec`.

What may be written is derived from the dataclasses that a spec in Python is written with, field by field, so that there
is one list of fields. Two things differ: `preprocessing` says which it is by its `kind`, and `spec` alone may stand for
all of them.
"""

import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from importlib import import_module
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import pydantic
from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.config import JsonDict, JsonValue

from edge_assets.errors import InvalidSpec, did_you_mean, printable
from edge_assets.spec.model import ModelSpec
from edge_assets.spec.preprocess import KINDS, Preprocessing
from edge_assets.spec.validation import faults_of, invalid

SPEC = "spec"  # the attribute that names a ModelSpec in Python
KIND = "kind"  # of a preprocessing, by the names that a release's manifest has
TEMPLATE = "{{"  # Dagster would render it; the command line reads the same files without Dagster
SCALARS = (str, int, float, bool)


class Attributes(BaseModel):
    """What YAML says of a `ModelSpec`, or of a part of it. Takes no other fields than those of `made`."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())
    made: ClassVar[type[Any]]

    @pydantic.field_validator("*")
    @classmethod
    def _is_no_template(cls, value: object) -> object:
        entries = value if isinstance(value, tuple) else (value,)
        for entry in entries:
            if isinstance(entry, str) and TEMPLATE in entry:
                raise ValueError(
                    f"'{entry}' is a template, and attributes are taken as they stand: name a ModelSpec in Python with "
                    f"'{SPEC}', and read the environment there"
                )
        return value

    def make(self) -> Any:
        """The object. What was not written is left to its own defaults."""
        values = {}
        for name in self.model_fields_set - {KIND}:
            values[name] = _made(getattr(self, name))
        try:
            return self.made(**values)
        except ValueError as error:
            raise InvalidSpec(self.made.__name__, str(error)) from None


@cache
def attributes_type() -> type[Attributes]:
    """The attributes of a whole model: `spec` alone, or the fields of a `ModelSpec`."""
    written = _written(ModelSpec)
    required = [field.name for field in fields(ModelSpec) if _is_required(field)]
    for name in required:
        written[name] = (written[name][0], _absent())
    written[SPEC] = (str, _absent())
    made = create_model("EdgeModelAttributes", __base__=Attributes, **written)
    made.made = ModelSpec
    # for whoever reads the file without running it: an editor, `dg check yaml`
    conditions: JsonDict = {
        "if": {"required": [SPEC]},
        "then": {"maxProperties": 1},
        "else": {"required": list[JsonValue](required)},
    }
    made.model_config["json_schema_extra"] = conditions
    made.model_rebuild(force=True)
    return made


def model_spec(attributes: Attributes) -> ModelSpec:
    """The model that attributes say. Raises InvalidSpec, or what the module of `spec` raises when it is imported."""
    written = attributes.model_fields_set
    if SPEC in written:
        others = sorted(written - {SPEC})
        if others:
            raise InvalidSpec(SPEC, f"stands for all fields, so leave out {', '.join(others)}")
        return named_spec(getattr(attributes, SPEC))
    required = [field.name for field in fields(ModelSpec) if _is_required(field)]
    missing = [name for name in required if name not in written]
    if missing:
        raise InvalidSpec("attributes", f"give {SPEC}, or all of the model's fields: {', '.join(missing)} not given")
    made: ModelSpec = attributes.make()
    return made


def parsed(attributes: object) -> Attributes:
    """Attributes as a YAML file has them. Raises InvalidSpec with every field that is wrong."""
    try:
        return attributes_type().model_validate(attributes if attributes is not None else {})
    except ValidationError as error:
        raise invalid(faults_of(error, form=attributes_type())) from None


def named_spec(reference: str) -> ModelSpec:
    """The ModelSpec that `package.module:NAME` names. Raises InvalidSpec if it is none."""
    module, _, name = reference.partition(":")
    if not module or not name.isidentifier():
        raise InvalidSpec("models", f"'{printable(reference)}' is not of the form 'package.module:NAME'")
    imported = _imported(module, reference)
    if not hasattr(imported, name):
        specs = [other for other, value in vars(imported).items() if isinstance(value, ModelSpec)]
        offered = did_you_mean(name, specs) or f"Its models: {', '.join(specs) or 'none'}."
        raise InvalidSpec("models", f"module '{module}' has no '{name}'. {offered}")
    spec = getattr(imported, name)
    if not isinstance(spec, ModelSpec):
        raise InvalidSpec("models", f"'{reference}' is a {type(spec).__name__}, not a ModelSpec")
    return spec


def _imported(module: str, reference: str) -> types.ModuleType:
    """Raises InvalidSpec where there is no such module, and what the module itself raises."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # something that the module imports
        raise InvalidSpec(
            "models",
            f"no module named '{error.name}' (from '{printable(reference)}'): it must lie in the folder of "
            f"pyproject.toml, or be installed",
        ) from None


@cache
def _attributes_of(made: type[Any], kind: str | None = None) -> type[Attributes]:
    written = _written(made)
    if kind is not None:
        written[KIND] = (Literal[kind], ...)
    attributes = create_model(f"{made.__name__}Attributes", __base__=Attributes, **written)
    attributes.made = made
    return attributes


def _written(made: type[Any]) -> dict[str, Any]:
    """Type and default in YAML of every field of a dataclass."""
    hints = get_type_hints(made)
    written = {}
    for field in fields(made):
        written[field.name] = (_in_yaml(hints[field.name]), _default(field))
    return written


def _in_yaml(hint: Any) -> Any:
    """How YAML writes what a field of type `hint` takes. None is written by leaving the field out."""
    if hint is Preprocessing:
        kinds = []
        for kind, preprocessing in KINDS.items():
            made: object = preprocessing
            kinds.append(_attributes_of(made, kind))
        return Annotated[Union[tuple(kinds)], pydantic.Field(discriminator=KIND)]  # noqa: UP007  # of a list
    if is_dataclass(hint):
        return _attributes_of(hint)  # type: ignore[arg-type]  # a class, as every hint is
    if get_origin(hint) in (Union, types.UnionType):
        members = [_in_yaml(member) for member in get_args(hint) if member is not types.NoneType]
        return Union[tuple(members)]  # noqa: UP007  # of a list
    if get_origin(hint) is tuple and Ellipsis in get_args(hint):
        return types.GenericAlias(tuple, (_in_yaml(get_args(hint)[0]), Ellipsis))
    return hint


def _default(field: "Field[Any]") -> Any:
    """What a schema shows as a field's default; the value itself is set by the dataclass."""
    if _is_required(field):
        return ...
    return field.default if isinstance(field.default, SCALARS) else _absent()


def _absent() -> Any:
    return pydantic.Field(default_factory=lambda: None)


def _is_required(field: "Field[Any]") -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _made(value: object) -> Any:
    if isinstance(value, Attributes):
        return value.make()
    if isinstance(value, tuple):
        return tuple(_made(entry) for entry in value)
    if isinstance(value, Mapping):
        return {name: _made(entry) for name, entry in value.items()}
    return value
