"""Scales as integers, and functions of one int8 value as tables, as TensorFlow Lite's reference kernels define them.

All of it is integer arithmetic of 32 bits but the first step, from the float32 scales of a file to a multiplier and a
shift. `kernels.h` has the rest of the same arithmetic in C.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from edge_assets.later import np

SMALLEST, LARGEST = -128, 127  # of int8
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
# e to the power of -1/4, -1/2, -1, ..., -16, with 31 bits behind the point
POWERS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
SOFTMAX_BITS = 5  # before the point of what softmax takes the exponential of
LOGISTIC_BITS = 4


@dataclass(frozen=True)
class Factor:
    """A real factor: multiplier / 2^31 * 2^shift."""

    multiplier: int
    shift: int

    @classmethod
    def of(cls, real: float) -> "Factor":
        """The nearest to a real number that is not negative; 0 for one below 2^-32."""
        fraction, shift = math.frexp(real)
        multiplier = math.floor(fraction * 2**31 + 0.5)
        if multiplier == 2**31:
            multiplier, shift = multiplier // 2, shift + 1
        if multiplier == 0 or shift < -31:
            return cls(0, 0)
        return cls(multiplier, shift)

    def times(self, value: int) -> int:
        """The product with an integer, rounded twice as in C."""
        if self.shift > 0:
            return high_product(_wrapped(value << self.shift), self.multiplier)
        return shifted_right(high_product(value, self.multiplier), -self.shift)

    def mean_of(self, count: int) -> "Factor":
        """The factor of the sum of so many values that gives their mean."""
        shift = min(count.bit_length() - 1, 32, 31 + self.shift)
        return Factor((self.multiplier << shift) // count, self.shift - shift)


def high_product(a: int, b: int, bits: int = 31) -> int:
    """a * b / 2^bits, rounded to nearest; both have `bits` bits and a sign."""
    if a == b == -(1 << bits):
        return (1 << bits) - 1
    half = 1 << (bits - 1)
    product = a * b
    nudged = product + (half if product >= 0 else 1 - half)
    return _quotient(nudged, 1 << bits)


def shifted_right(value: int, bits: int) -> int:
    """value / 2^bits, rounded to nearest, halves away from zero."""
    mask = (1 << bits) - 1
    threshold = (mask >> 1) + (value < 0)
    return (value >> bits) + ((value & mask) > threshold)


def saturated_left(value: int, bits: int) -> int:
    """value * 2^bits, at most what 32 bits hold."""
    limit = (1 << (31 - bits)) - 1
    if value > limit:
        return INT32_MAX
    return INT32_MIN if value < -limit else value << bits


def clamped(value: int) -> int:
    """As int8."""
    return min(max(value, SMALLEST), LARGEST)


def rounded(value: float) -> int:
    """The nearest integer, halves away from zero."""
    return math.floor(value + 0.5) if value >= 0 else math.ceil(value - 0.5)


def _quotient(value: int, divisor: int) -> int:
    """Rounded towards zero, as C divides."""
    return value // divisor if value >= 0 else -(-value // divisor)


def _wrapped(value: int) -> int:
    return (value + 2**31) % 2**32 - 2**31


# --- functions of one value ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Affine:
    """What a tensor's int8 values stand for: scale * (q - zero point). The scale is a float32."""

    scale: float
    zero: int


def table_of(function: Callable[[int], int]) -> list[int]:
    """What a function gives for -128, -127, ..., 127."""
    return [clamped(function(value)) for value in range(SMALLEST, LARGEST + 1)]


def requantized(source: Affine, given: Affine) -> list[int]:
    """The table that brings values to another scale."""
    factor = Factor.of(source.scale / given.scale)
    return table_of(lambda value: factor.times(value - source.zero) + given.zero)


def relu(source: Affine, given: Affine) -> list[int]:
    """The table of max(x, 0)."""
    ratio = np.float32(source.scale) / np.float32(given.scale)
    factor = Factor.of(float(ratio))
    return table_of(lambda value: max(given.zero, given.zero + factor.times(value - source.zero)))


def relu6(source: Affine, _given: Affine) -> list[int]:
    """The table of min(max(x, 0), 6): the scale stays."""
    six = clamped(rounded(float(np.float32(6) / np.float32(source.scale))) + source.zero)
    return table_of(lambda value: min(max(value, source.zero), six))


def hard_swish(source: Affine, given: Affine) -> list[int]:
    """The table of x * min(max(x + 3, 0), 6) / 6, in 16 bits."""
    fine = np.float32(1 / 128) * np.float32(source.scale)
    output = Factor.of(float(fine / np.float32(given.scale)))
    gate = Factor.of(float(fine / (np.float32(3) / np.float32(32768))))

    def value_of(value: int) -> int:
        fine_value = (value - source.zero) * 128
        unshifted = high_product(fine_value, _half_width(output.multiplier), 15)
        opened = (_gate(fine_value, gate) + 2**15) >> 1
        product = _quotient(opened * unshifted, 2**15)
        return shifted_right(product, -output.shift) + given.zero

    return table_of(value_of)


def _gate(value: int, factor: Factor) -> int:
    """The value on a scale on which 3 is 2^15, saturated: what is shifted left last decides."""
    if factor.shift > 0:
        value = _saturated16(value << (factor.shift - 1))
    value = high_product(value, _half_width(factor.multiplier), 15)
    if factor.shift > 0:
        value = _saturated16(value << 1)
    if factor.shift < 0:
        value = shifted_right(value, -factor.shift)
    return value


def _half_width(multiplier: int) -> int:
    """A multiplier of 31 bits in 15."""
    return min((multiplier + 2**15) >> 16, 2**15 - 1)


def _saturated16(value: int) -> int:
    return min(max(value, -(2**15)), 2**15 - 1)


def logistic(source: Affine, _given: Affine) -> list[int]:
    """The table of 1 / (1 + exp(-x)), whose output has scale 1/256 and zero point -128."""
    factor = Factor.of(source.scale * 2 ** (31 - LOGISTIC_BITS))
    radius = _radius(LOGISTIC_BITS, factor.shift)

    def value_of(value: int) -> int:
        centred = value - source.zero
        if centred <= -radius:
            return SMALLEST
        if centred >= radius:
            return LARGEST
        return shifted_right(_logistic(factor.times(centred)), 23) + SMALLEST

    return table_of(value_of)


def _logistic(value: int) -> int:
    """Of a value with LOGISTIC_BITS bits before the point; the result has none."""
    if value == 0:
        return 1 << 30
    positive = _reciprocal_of_one_plus(exponential(-abs(value), LOGISTIC_BITS))
    return positive if value > 0 else INT32_MAX - positive


def _reciprocal_of_one_plus(x: int) -> int:
    half_denominator = (x + INT32_MAX + 1) // 2
    found = 1515870810 + high_product(half_denominator, -1010580540)  # 48/17 - 32/17 d, 2 bits before the point
    for _ in range(3):
        rest = (1 << 29) - high_product(half_denominator, found)
        found += saturated_left(high_product(found, rest), 2)
    return saturated_left(found, 1)


def exponentials(source: Affine, beta: float) -> list[int]:
    """exp(-beta * scale * n) of n = 0 to 255, with 31 bits behind the point; 0 where softmax leaves it out."""
    real = min(float(np.float32(beta)) * source.scale * 2 ** (31 - SOFTMAX_BITS), 2**31 - 1.0)
    factor = Factor.of(real)
    radius = _radius(SOFTMAX_BITS, factor.shift)
    found = []
    for steps in range(256):
        is_counted = steps <= radius
        found.append(exponential(factor.times(-steps), SOFTMAX_BITS) if is_counted else 0)
    return found


def _radius(bits: int, shift: int) -> int:
    """The largest distance from zero that stays in range when it is scaled."""
    return math.floor(math.ldexp(((1 << bits) - 1) << (31 - bits), -shift))


def exponential(value: int, bits: int) -> int:
    """e to the power of a value that is not positive, with `bits` bits before the point; the result has none.

    A polynomial gives the exponential of what the value has beyond a multiple of 1/4, and factors that of the multiple.
    """
    if value == 0:
        return INT32_MAX
    quarter = 1 << (31 - bits - 2)
    beyond = (value & (quarter - 1)) - quarter
    result = _exponential_of_a_quarter(saturated_left(beyond, bits))
    multiple = beyond - value
    for power, factor in enumerate(POWERS, start=-2):
        if power < bits and multiple & (1 << (31 - bits + power)):
            result = high_product(result, factor)
    return result


def _exponential_of_a_quarter(value: int) -> int:
    """Of a value in [-1/4, 0): the Taylor series around -1/8."""
    x = value + (1 << 28)
    squared = high_product(x, x)
    cubed = high_product(squared, x)
    fourth = high_product(squared, squared)
    third = high_product(shifted_right(fourth, 2) + cubed, 715827883)  # 1/3
    series = x + shifted_right(third + squared, 1)
    middle = 1895147668  # exp(-1/8)
    return middle + high_product(middle, series)
