"""How an artifact's numbers are represented: the fields of a scheme, and the name that recipes and rows have for it.

A name is its fields' words, in this order, joined by `_`; what does not apply is left out:

    precision     fp32 fp16 int8 int4; lut6 lut4: a palette of 2^6 or 2^4 values
    kind          static: weights and activations, ranges observed on calibration data
                  dynamic: weights ahead of time, activations at run time; qat: static, with ranges from training
                  weights, weightonly: weights alone; mixed: what a search for layers to keep starts from
    form          qdq: QuantizeLinear and DequantizeLinear around float operators; litert, pt2e, torch: the toolchain's
                  own; matmulnbits, 8da4w: its operator or method; linear, palette: CoreML's two encodings
    engine        of torch: the backend of its quantized kernels
    types         of activations and weights, or of weights alone: u8s8, s8; int16 is i16
    symmetric     zero points are 0 where the form would allow others
    granularity   what shares a scale: pertensor, perchannel, perblock32, group32
    block128      of matrix products: so many weights along the contracted axis share a scale
    level4        ONNX Runtime's accuracy level: 4 multiplies in int8
    reducedrange  weights in 7 bits, against overflow in 16-bit sums
    method        how ranges are found (minmax entropy percentile histogram) or weights rounded (rtn hqq gptq kmeans)
    integerio     inputs and outputs are int8 too
    fp16          the rest of the graph
    mixed_keep3   so many layers are kept in higher precision: fp32, or, with a last int8block128, int8 in such blocks

`int8_static_qdq_u8s8_perchannel_reducedrange_minmax` is int8, static, in QDQ form, with uint8 activations and int8
weights of 7 bits, a scale per channel, and ranges from the smallest and largest values of the calibration data.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from edge_assets.core.shapes import read, record
from edge_assets.hashing import Json

Precision = Literal["fp32", "fp16", "int8", "int4", "lut6", "lut4"]
Kind = Literal["static", "dynamic", "qat", "weights", "weightonly", "mixed", "full"]  # full: static, in older names
Form = Literal["qdq", "litert", "pt2e", "torch", "matmulnbits", "8da4w", "linear", "palette"]
Engine = Literal["x86", "qnnpack", "fbgemm", "onednn"]
Granularity = Literal["pertensor", "perchannel", "perblock", "group"]
Method = Literal["minmax", "entropy", "percentile", "histogram", "rtn", "hqq", "gptq", "kmeans"]
GROUPED = ("perblock", "group")  # granularities whose word ends in the block size
VOCABULARIES: Mapping[str, object] = {
    "kind": Kind,
    "form": Form,
    "engine": Engine,
    "granularity": Granularity,
    "method": Method,
    "rest": Precision,
}
FLAGS = {"symmetric": "is_symmetric", "reducedrange": "has_reduced_range", "integerio": "has_integer_interface"}
NUMBERED = {"block": "block", "level": "accuracy_level", "keep": "kept_layers", "int8block": "kept_block"}
TYPES = re.compile(r"([usif]\d+)?([us]\d+)")
WORD_AND_NUMBER = re.compile(r"(int8block|[a-z]+)(\d+)")


@dataclass(frozen=True)
class Scheme:
    """The fields of one scheme, in the words of its name."""

    precision: Precision
    kind: Kind | None = None
    form: Form | None = None
    engine: Engine | None = None
    activations: str | None = None  # "u8", "s16", "f16"; None where the name tells of weights alone
    weights: str | None = None
    is_symmetric: bool = False
    granularity: Granularity | None = None
    block: int | None = None  # weights that share a scale
    accuracy_level: int | None = None
    has_reduced_range: bool = False
    method: Method | None = None
    has_integer_interface: bool = False
    rest: Precision | None = None
    kept_layers: int = 0
    kept_block: int | None = None  # None: kept layers are in fp32

    @property
    def name(self) -> str:
        """The words, in the order that the module gives."""
        words: list[str | None] = [self.precision, self.kind, self.form, self.engine]
        words.append(f"{self.activations or ''}{self.weights or ''}")
        if self.is_symmetric:
            words.append("symmetric")
        if self.granularity in GROUPED:
            words.append(f"{self.granularity}{self.block}")
        else:
            words.append(self.granularity)
            words.append(_numbered("block", self.block))
        words.append(_numbered("level", self.accuracy_level))
        if self.has_reduced_range:
            words.append("reducedrange")
        words.append(self.method)
        if self.has_integer_interface:
            words.append("integerio")
        words.append(self.rest)
        if self.kept_layers:
            words.append(f"mixed_keep{self.kept_layers}")
        words.append(_numbered("int8block", self.kept_block))
        return "_".join(word for word in words if word)

    @classmethod
    def named(cls, name: str) -> "Scheme | None":
        """The scheme of that name, None for what begins with no precision.

        Words that are unknown, such as those of an earlier version, are passed over.
        """
        precision, *words = name.split("_")
        if precision not in get_args(Precision):
            return None
        found: dict[str, Json] = {"precision": precision}
        for word in words:
            for field, value in _meaning(word).items():
                found.setdefault(field, value)
        return read(cls, found)


def _meaning(word: str) -> dict[str, Json]:
    """The fields that one word of a name sets; none for a word that is unknown."""
    if word in FLAGS:
        return {FLAGS[word]: True}
    for field, vocabulary in VOCABULARIES.items():
        if word in get_args(vocabulary):
            return {field: word}
    if types := TYPES.fullmatch(word):
        return {"activations": types[1], "weights": types[2]}
    numbered = WORD_AND_NUMBER.fullmatch(word)
    if numbered and numbered[1] in GROUPED:
        return {"granularity": numbered[1], "block": int(numbered[2])}
    if numbered and numbered[1] in NUMBERED:
        return {NUMBERED[numbered[1]]: int(numbered[2])}
    return {}


def renamed(name: str, **changes: Json) -> str:
    """The name of the same scheme with other values of some fields; a name that is none of a scheme's stays."""
    scheme = Scheme.named(name)
    if scheme is None:
        return name
    return read(Scheme, record(scheme) | changes).name


def short_type(name: str) -> str:
    """A type as names have it: `u8` for uint8."""
    return name.replace("uint", "u").replace("int", "s")


def granularity_of(per_channel: bool) -> Granularity:
    """What shares a scale."""
    return "perchannel" if per_channel else "pertensor"


def _numbered(word: str, number: int | None) -> str | None:
    return f"{word}{number}" if number else None
