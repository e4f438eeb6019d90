"""Which release of ONNX Runtime reads which opset (onnxruntime.ai, "ONNX Runtime compatibility")."""

from collections.abc import Mapping

LEAST_RELEASE: Mapping[int, str] = {
    15: "1.10",
    16: "1.11",
    17: "1.12",
    18: "1.14",
    19: "1.15",
    20: "1.17",
    21: "1.18",
    22: "1.20",
    23: "1.22",
}  # by opset; later ones are read by a release that is not known here


def least_release(opset: int) -> str | None:
    """The first release that reads graphs of this opset; None: not known here."""
    earlier = [known for known in LEAST_RELEASE if known >= opset]
    return LEAST_RELEASE[min(earlier)] if earlier else None


def is_older(version: str, least: str) -> bool:
    """Whether a release such as 1.16.3 comes before another."""
    return _numbers(version) < _numbers(least)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split(".")[:2] if number.isdigit())
