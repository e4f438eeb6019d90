"""The preprocessings as specs are written with them: their constructors name every wrong field.

Their own module goes into releases, where there is no pydantic, so it is checked from outside: whoever imports this
module, as `from edge_assets import ImagePreprocessing` does, gets the same classes with constructors that check.
"""

from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields
from functools import cache, wraps
from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel, Field, ValidationError, create_model, field_validator

from edge_assets.errors import Fault, InvalidSpec, printable
from edge_assets.spec.preprocess import (
    KINDS,
    AudioPreprocessing,
    ImagePreprocessing,
    Passthrough,
    TextPreprocessing,
)
from edge_assets.spec.validation import STRICT, as_tuple, faults_of, invalid

__all__ = [
    "AudioPreprocessing",
    "ImagePreprocessing",
    "Passthrough",
    "TextPreprocessing",
    "given_inputs",
    "preprocessing_faults",
]
WHERE = "preprocessing"  # the field of a spec
Size = Annotated[int, Field(ge=1)]  # every whole number of a preprocessing is one
Byte = Annotated[int, Field(ge=0, le=255)]
SIZES: dict[object, Any] = {int: Size, int | None: Size | None}
LISTS: dict[str, Any] = {  # lists of whole numbers by field
    "resize_to": tuple[Size, ...],
    "fill": tuple[Byte, ...],
    "background": tuple[Byte, ...],
    "least": tuple[Size, ...],
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
    if kind not in KINDS.values():
        known = ", ".join(known.__name__ for known in KINDS.values())
        yield WHERE, f"{printable(kind.__name__)} is not one of {known}"
        return
    yield from _field_faults(kind, vars(preprocessing))


def _field_faults(kind: type[object], values: dict[str, object]) -> list[Fault]:
    form = _forms()[kind]
    try:
        form.model_validate(values)
    except ValidationError as error:
        return faults_of(error, WHERE, form=form)
    return []


@cache
def _forms() -> dict[type, type[BaseModel]]:
    """By the dataclass of a preprocessing, a model with its fields."""
    forms: dict[type, type[BaseModel]] = {}
    for kind in KINDS.values():
        form: dict[str, Any] = {}
        hints = get_type_hints(kind)
        for entry in fields(kind):
            hint = hints[entry.name]
            value = LISTS.get(entry.name, SIZES.get(hint, hint))
            form[entry.name] = (value, ... if entry.default is MISSING else entry.default)
        forms[kind] = create_model(kind.__name__, __base__=_Form, **form)
    return forms


# --- what a preprocessing gives ------------------------------------------------------------------------


@dataclass(frozen=True)
class Given:
    """An input as a preprocessing makes it. A text in `sample_shape` is an axis whose size the data decide."""

    dtype: str
    sample_shape: tuple[int | str, ...]


def given_inputs(preprocessing: object) -> dict[str, Given | None]:
    """The inputs that a preprocessing makes, by name; None where the data decide what one is."""
    if isinstance(preprocessing, ImagePreprocessing):
        return {preprocessing.input: Given("float32", _picture_shape(preprocessing))}
    if isinstance(preprocessing, AudioPreprocessing):
        return {preprocessing.input: Given("float32", _audio_shape(preprocessing))}
    if isinstance(preprocessing, TextPreprocessing):
        return dict.fromkeys(preprocessing.inputs, Given("int64", (preprocessing.max_length,)))
    if isinstance(preprocessing, Passthrough):
        return dict.fromkeys(preprocessing.inputs)
    return {}


def _picture_shape(image: ImagePreprocessing) -> tuple[int | str, ...]:
    if image.least and image.least != (image.height, image.width):
        return (image.channels, "height", "width")
    return (image.channels, image.height, image.width)


def _audio_shape(audio: AudioPreprocessing) -> tuple[int | str, ...]:
    if audio.n_fft is None:
        return (audio.samples or "samples",)
    sizes = {"channel": 1, "mel": audio.n_mels or audio.n_fft // 2 + 1, "time": _frames(audio) or "frames"}
    return tuple(sizes[axis] for axis in audio.axes)


def _frames(audio: AudioPreprocessing) -> int | None:
    """How many there are of every sound; None where that depends on its length."""
    if audio.frames is not None or audio.samples is None:
        return audio.frames
    assert audio.n_fft is not None
    assert audio.hop is not None
    around = audio.n_fft if audio.center else 0
    return 1 + (audio.samples + 2 * (around // 2) - audio.n_fft) // audio.hop


# --- constructors --------------------------------------------------------------------------------------


def _check_constructor(kind: type[object]) -> None:
    """Let a preprocessing's constructor raise InvalidSpec with every field that is wrong. A list counts as a tuple."""
    made: Callable[..., None] = kind.__init__
    names = [entry.name for entry in fields(kind)]  # type: ignore[arg-type]  # dataclasses, all of them

    @wraps(made)
    def constructor(instance: object, *arguments: object, **named: object) -> None:
        values = dict(named)
        for name, argument in zip(names, arguments, strict=False):
            values[name] = argument
        faults = _field_faults(kind, values)
        for number in range(len(names), len(arguments)):
            faults.append((f"{WHERE}.{number}", "is one argument too many"))
        if faults:
            raise invalid(faults)
        try:
            made(instance, **{name: as_tuple(value) for name, value in values.items()})
        except ValueError as error:
            raise InvalidSpec(WHERE, str(error)) from None

    kind.__init__ = constructor  # type: ignore[method-assign,assignment]  # as it is decorated


for preprocessing_kind in KINDS.values():
    _check_constructor(preprocessing_kind)
