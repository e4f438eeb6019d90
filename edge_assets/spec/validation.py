"""What users write, checked: every mistake of one object is named at once, on a line of its own.

Nothing is converted, because a silent conversion hides a mistake: `minimum="500"` and `higher_is_better=1` are refused.
A number that was written as 1 stays 1, and enters recipes so. A list counts as a tuple.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from inspect import signature
from typing import Annotated, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, WrapValidator

from edge_assets.errors import Fault, InvalidSpec, printable

T = TypeVar("T")

STRICT = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)
REASONS = {  # for what pydantic says in Python's words
    "missing": "is missing",
    "extra_forbidden": "is no field that there is",
    "unexpected_keyword_argument": "is no field that there is",
    "unexpected_positional_argument": "is one argument too many",
}
MUST = {  # what pydantic calls by Python's names
    "model_type": "must be a mapping of fields",
    "dict_type": "must be a mapping",
    "mapping_type": "must be a mapping",
    "tuple_type": "must be a list",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
}


def as_tuple(value: object) -> object:
    """A list as a tuple, anything else as it is."""
    if isinstance(value, list):
        return tuple(value)
    return value


def _as_given(value: object, validate: Callable[[object], object]) -> object:
    validate(value)
    return value


def filled(values: tuple[T, ...]) -> tuple[T, ...]:
    """A tuple that has something in it. Raises ValueError."""
    if not values:
        raise ValueError("must not be empty")
    return values


Listed = BeforeValidator(as_tuple)  # of a tuple that may be written as a list
Number = Annotated[float, WrapValidator(_as_given), Field(allow_inf_nan=False)]
Texts = Annotated[tuple[str, ...], Listed]


def faults_of(error: ValidationError, where: str = "", positions: Sequence[str] = ()) -> list[Fault]:
    """What pydantic found wrong, each with its field below `where`. `positions` names positional arguments."""
    known = {str(number): name for number, name in enumerate(positions)}
    faults = []
    for mistake in error.errors(include_url=False):
        place = [printable(part) for part in mistake["loc"]]
        if place and place[0] in known:
            place[0] = known[place[0]]
        if where:
            place.insert(0, where)
        reason = _reason(
            kind=mistake["type"],
            message=mistake["msg"],
            given=mistake["input"],
            raised=mistake.get("ctx", {}).get("error"),
        )
        faults.append((".".join(place), reason))
    return faults


def _reason(kind: str, message: str, given: object, raised: object) -> str:
    """`raised` is the error of one of our own checks."""
    if kind in REASONS:
        return REASONS[kind]
    if kind == "value_error":
        return str(raised)
    must = MUST.get(kind, message.replace("Input should be", "must be"))
    return f"{printable(given)} {must}"


def invalid(faults: Sequence[Fault]) -> InvalidSpec:
    """The error that names them all."""
    (field, reason), *others = faults
    return InvalidSpec(field, reason, others)


def written_by_users(where: str, by_name: bool = False) -> Callable[[type[T]], type[T]]:
    """Of a pydantic dataclass: its constructor raises InvalidSpec, with fields named below `where`.

    With `by_name`, the first argument is its name, and says which of several it is.
    """

    def decorated(kind: type[T]) -> type[T]:
        validated: Callable[..., None] = kind.__init__
        positions = list(signature(kind).parameters)

        @wraps(validated)
        def constructor(instance: T, *arguments: object, **named: object) -> None:
            try:
                validated(instance, *arguments, **named)
            except ValidationError as error:
                place = where
                if by_name:
                    name = next(iter(arguments), named.get("name"))
                    place = f"{where} '{printable(name)}'"
                raise invalid(faults_of(error, place, positions)) from None

        kind.__init__ = constructor  # type: ignore[method-assign,assignment]  # as it is decorated
        return kind

    return decorated
