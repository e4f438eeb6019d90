"""What users write, checked: every mistake of one object is named at once, on a line of its own.

Nothing is converted, because a silent conversion hides a mistake: `minimum="500"` and `higher_is_better=1` are refused.
A number that was written as 1 stays 1, and enters recipes so. A list counts as a tuple.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import wraps
from inspect import signature
from typing import Annotated, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WrapValidator

from edge_assets.errors import Fault, InvalidSpec, did_you_mean, printable, with_nearest

T = TypeVar("T")

STRICT = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)
REASONS = {  # for what pydantic says in Python's words
    "missing": "is missing",
    "union_tag_not_found": "must be a mapping of fields, with its kind",
    "unexpected_positional_argument": "is one argument too many",
}
UNKNOWN_FIELD = ("extra_forbidden", "unexpected_keyword_argument")
CHOICES = ("literal_error", "union_tag_invalid")
MEMBERS = ("str", "int", "float", "bool", "[key]")  # what pydantic calls members of unions, and keys
QUOTED = re.compile(r"'([^']*)'")
MUST = {  # what pydantic calls by Python's names
    "model_type": "must be a mapping of fields",
    "model_attributes_type": "must be a mapping of fields",
    "dataclass_type": "must be a mapping of fields",
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


def faults_of(
    error: ValidationError,
    where: str = "",
    positions: Sequence[str] = (),
    form: type[BaseModel] | None = None,
) -> list[Fault]:
    """What pydantic found wrong, each with its field below `where`.

    `positions` names the arguments of a constructor, `form` is what was validated: they know which fields there are.
    """
    named = {str(number): name for number, name in enumerate(positions)}
    reasons: dict[str, list[str]] = {}
    for mistake in error.errors(include_url=False):
        parts, beside = _place(mistake["loc"], form)
        place = [printable(part) for part in parts]
        if place and place[0] in named:
            place[0] = named[place[0]]
        if where:
            place.insert(0, where)
        reason = _reason(
            kind=mistake["type"],
            message=mistake["msg"],
            given=mistake["input"],
            context=mistake.get("ctx", {}),
            name=str(mistake["loc"][-1]),
            beside=beside or positions,
            in_python=bool(positions),
        )
        reasons.setdefault(".".join(place), []).append(reason)
    faults = []
    for place_name, found in reasons.items():
        is_of_another_kind = any(other.startswith(f"{place_name}.") for other in reasons)
        if not is_of_another_kind:  # of what may be text or a mapping, and is a mapping with faults of its own
            faults.append((place_name, _alternatives(found)))
    return faults


def _place(location: Sequence[int | str], form: type[BaseModel] | None) -> tuple[list[int | str], set[str]]:
    """The field that a mistake is of, without pydantic's names for the members of unions; and the fields beside it."""
    forms = [form] if form else []
    parts: list[int | str] = []
    beside: set[str] = set()
    for number, part in enumerate(location):
        is_last = number == len(location) - 1
        fields = _fields_of(forms)
        if part in MEMBERS and is_last:
            continue
        is_class = isinstance(part, str) and part[:1].isupper()
        is_tag = bool(fields) and isinstance(part, str) and part not in fields and not is_last
        if is_class or is_tag:
            forms = [member for member in forms if part in (member.__name__, *_tags_of(member))]
            beside = _fields_of(forms)
            continue
        parts.append(part)
        if isinstance(part, str):
            beside = fields
            forms = _forms_below(forms, part)
    return parts, beside


def _fields_of(forms: Sequence[type[BaseModel]]) -> set[str]:
    names: set[str] = set()
    for form in forms:
        names.update(form.model_fields)
    return names


def _tags_of(form: type[BaseModel]) -> Iterator[object]:
    """Words by which a member of a union is told from the others: its fields that can have one value only."""
    for field in form.model_fields.values():
        if get_origin(field.annotation) is Literal:
            yield from get_args(field.annotation)


def _forms_below(forms: Sequence[type[BaseModel]], field: str) -> list[type[BaseModel]]:
    """What a field may be of, as far as that has fields itself."""
    found: list[type[BaseModel]] = []
    for form in forms:
        if field in form.model_fields:
            found += _forms_in(form.model_fields[field].annotation)
    return found


def _forms_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _forms_in(part)


def _reason(
    kind: str,
    message: str,
    given: object,
    context: Mapping[str, object],
    name: str,
    beside: Collection[str],
    in_python: bool,
) -> str:
    """`context` has the error of one of our own checks, `beside` are the fields where the one called `name` is."""
    if kind in UNKNOWN_FIELD:
        near = did_you_mean(name, beside) or f"There are {', '.join(sorted(beside))}."
        return f"is no field that there is. {near}"
    if kind in REASONS:
        return REASONS[kind]
    if kind == "value_error":
        return str(context.get("error"))
    if kind == "union_tag_invalid":
        choices = QUOTED.findall(str(context["expected_tags"]))
        given = context["tag"]
        must = f"must be {' or '.join(choices)}"
    else:
        choices = QUOTED.findall(message)
        must = MUST.get(kind, message.replace("Input should be", "must be"))
    if kind == "tuple_type" and isinstance(given, str | int | float):
        must = f"must be a list: write [{given!r}]"
        if in_python:  # where a comma may have been forgotten
            must += f", or ({given!r},) with its comma"
    if kind == "int_type" and name.endswith("_bytes"):
        must += " of bytes, such as 1048576"
    if kind in CHOICES and isinstance(given, str):
        return with_nearest(f"{printable(given)} {must}", given, choices)
    return f"{printable(given)} {must}"


def _alternatives(reasons: Sequence[str]) -> str:
    """The reasons of one place: why it is none of the things that it may be."""
    first, *others = dict.fromkeys(reasons)
    given, separator, _must = first.partition(" must be ")
    alternatives = [first]
    for reason in others:
        again = reason.startswith(given + separator)
        alternatives.append(reason.removeprefix(given + separator) if again else reason)
    return " or ".join(alternatives)


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
