"""A declared preprocessing, checked from outside: its own module goes into releases, where there is no pydantic."""

from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel, Field, ValidationError, create_model, field_validator

from edge_assets.errors import Fault, printable
from edge_assets.spec.preprocess import KINDS
from edge_assets.spec.validation import STRICT, as_tuple, faults_of

Size = Annotated[int, Field(ge=1)]  # every whole number of a preprocessing is one
Byte = Annotated[int, Field(ge=0, le=255)]
NAMES: dict[type, str] = {kind: name for name, kind in KINDS.items()}
SIZES: dict[object, Any] = {int: Size, int | None: Size | None}
LISTS: dict[str, Any] = {  # lists of whole numbers by field
    "resize_to": tuple[Size, ...],
    "fill": tuple[Byte, ...],
    "background": tuple[Byte, ...],
}


class _Form(BaseModel):
    """The fields of a preprocessing, with their types."""

    model_config = STRICT

    listed = field_validator("*", mode="before")(as_tuple)


def preprocessing_faults(preprocessing: object) -> Iterator[Fault]:
    """What is wrong with a spec's preprocessing; nothing where there is none."""
    if preprocessing is None:
        return
    kind = type(preprocessing)
    name = NAMES.get(kind)
    if name is None:
        known = ", ".join(known.__name__ for known in KINDS.values())
        yield "preprocessing", f"{printable(kind.__name__)} is not one of {known}"
        return
    try:
        _form(name).model_validate(vars(preprocessing))
    except ValidationError as error:
        yield from faults_of(error, "preprocessing")


@cache
def _form(name: str) -> type[BaseModel]:
    """A model with the fields of the dataclass of that kind of preprocessing."""
    kind = KINDS[name]
    form: dict[str, Any] = {}
    hints = get_type_hints(kind)
    for entry in fields(kind):
        hint = hints[entry.name]
        value = SIZES.get(hint, hint)
        if entry.name in LISTS:
            value = LISTS[entry.name]
        form[entry.name] = (value, ...)
    return create_model(kind.__name__, __base__=_Form, **form)
