"""Dataclasses as JSON and back. What is read was written by others, perhaps by another version.

`read` takes no field of another kind, and ignores fields that it does not know. `written` gives what `read` takes; a
field with the metadata `LEFT_OUT` is not in it where it is None. The order of mappings is kept.
"""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, TypeVar

from edge_assets.errors import Malformed
from edge_assets.hashing import Json

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")
LEFT_OUT = {"left out where it is None": True}  # the metadata of such a field
_adapters: dict[object, "TypeAdapter[object]"] = {}


def read(cls: type[T], data: object) -> T:
    """JSON data as that dataclass. Raises Malformed, naming the field."""
    from pydantic import ValidationError

    try:
        found = _adapter(cls).validate_json(json.dumps(data, allow_nan=False), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise Malformed(f"{place or 'it'} of a {cls.__name__}: {first['msg']}") from None
    except (TypeError, ValueError, RecursionError):
        raise Malformed(f"what should be a {cls.__name__} is no JSON") from None
    assert isinstance(found, cls)
    return found


def written(value: object) -> Json:
    """A dataclass, or what holds some, as JSON."""
    if isinstance(value, Mapping):
        return {str(name): written(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [written(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return record(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def record(value: object) -> dict[str, Json]:
    """A dataclass's fields as JSON."""
    found: dict[str, Json] = {}
    for entry in fields(value):  # type: ignore[arg-type]
        inner = getattr(value, entry.name)
        if inner is not None or entry.metadata != LEFT_OUT:
            found[entry.name] = written(inner)
    return found


def _adapter(cls: type[object]) -> "TypeAdapter[object]":
    """Made when it is first needed: importing what has such dataclasses stays light."""
    from pydantic import TypeAdapter

    if cls not in _adapters:
        _adapters[cls] = TypeAdapter(cls)
    return _adapters[cls]
