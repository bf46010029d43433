"""The numbers that a group of weights can become, and the nearest of them to any weight.

A group's numbers are (code - zero) * scale, or table[code] * scale for small floats.  Scales are
rounded to the format they are stored in before any code is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from quire.convert.scheme import Scheme
from quire.ops.number_formats import from_float32, to_float32

__all__ = ["Grid", "Ranges", "code_values"]

Codes = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Ranges:
    """The scale of each group, and its zero point (the middle code where zeros are fixed)."""

    scales: Float32
    zeros: Float32

    def where(self, better: npt.NDArray[np.bool_], other: Ranges) -> Ranges:
        """`other` where it is better, these elsewhere."""
        return Ranges(
            np.where(better, other.scales, self.scales), np.where(better, other.zeros, self.zeros)
        )


@dataclass(frozen=True, slots=True)
class Grid:
    """A scheme's numbers; scales are stored as scale_format (float32, float16 or bfloat16)."""

    scheme: Scheme
    scale_format: str = "float16"

    @property
    def shrinks(self) -> tuple[float, ...]:
        """Shares of a group's largest magnitude that are worth trying as its range."""
        if self.scheme.bits >= 8:
            return (1.0,)
        steps = 15 if self.scheme.symmetric else 11
        most = 1.15 if self.scheme.symmetric else 1.0
        return tuple(round(most - 0.05 * step, 2) for step in range(steps))

    def fit(self, groups: Float32, shrink: float) -> Ranges:
        """Ranges of groups [..., size] that reach to `shrink` of their largest magnitudes."""
        if self.scheme.numbers != "integer":
            return self._fit_table(groups, shrink)
        if self.scheme.symmetric:
            return self._fit_symmetric(groups, shrink)
        return self._fit_between(groups, shrink)

    def encode(self, x: Float32, ranges: Ranges) -> Codes:
        """The nearest codes of x; ranges broadcast against it."""
        scales: Float32 = np.where(ranges.scales == 0, np.float32(1), ranges.scales)
        if self.scheme.numbers != "integer":
            return _nearest_in_table(x / scales, self.scheme.bits)
        numbers: Float32 = np.rint(x / scales)
        numbers += ranges.zeros
        np.clip(numbers, 0, (1 << self.scheme.bits) - 1, out=numbers)
        return numbers.astype(np.uint8)

    def nearest(self, x: Float32, ranges: Ranges) -> Float32:
        """The nearest numbers to x, as decode(encode(x)) but for ties; ranges broadcast."""
        if self.scheme.numbers != "integer":
            return self.decode(self.encode(x, ranges), ranges)
        scales: Float32 = np.where(ranges.scales == 0, np.float32(1), ranges.scales)
        numbers: Float32 = x * (np.float32(1) / scales)
        np.rint(numbers, out=numbers)
        last = np.float32((1 << self.scheme.bits) - 1)
        if self.scheme.symmetric:  # bounds that are single numbers are much faster
            middle = np.float32(1 << (self.scheme.bits - 1))
            np.clip(numbers, -middle, last - middle, out=numbers)
        else:
            np.clip(numbers, -ranges.zeros, last - ranges.zeros, out=numbers)
        numbers *= ranges.scales
        return numbers

    def decode(self, codes: Codes, ranges: Ranges) -> Float32:
        """The numbers that codes stand for."""
        if self.scheme.numbers != "integer":
            return code_values(self.scheme.bits)[codes] * ranges.scales
        values = codes.astype(np.float32)
        values -= ranges.zeros
        values *= ranges.scales
        return values

    def _fit_symmetric(self, groups: Float32, shrink: float) -> Ranges:
        """The number of largest magnitude takes the code 0, which has no counterpart."""
        at = np.abs(groups).argmax(axis=-1)[..., None]
        extreme = np.take_along_axis(groups, at, axis=-1)[..., 0]
        middle = 1 << (self.scheme.bits - 1)
        if self.scheme.bits >= 8:
            scales = np.abs(extreme) / np.float32(middle - 1)
        else:
            scales = extreme * np.float32(-shrink / middle)
        return Ranges(self._stored(scales), np.full(scales.shape, middle, np.float32))

    def _fit_between(self, groups: Float32, shrink: float) -> Ranges:
        """From the least to the greatest number, zero included."""
        low = np.minimum(groups.min(axis=-1), 0) * np.float32(shrink)
        high = np.maximum(groups.max(axis=-1), 0) * np.float32(shrink)
        most = np.float32((1 << self.scheme.bits) - 1)
        scales = self._stored((high - low) / most)
        safe = np.where(scales == 0, np.float32(1), scales)
        return Ranges(scales, np.rint(-low / safe).clip(0, most).astype(np.float32))

    def _fit_table(self, groups: Float32, shrink: float) -> Ranges:
        largest = np.abs(groups).max(axis=-1) * np.float32(shrink)
        scales = largest / np.nanmax(code_values(self.scheme.bits))
        if self.scheme.power_of_two:
            # An E8M0 byte holds exponents from -127 to 127.
            exponents = np.rint(np.log2(np.maximum(scales, np.float32(1e-38)))).clip(-126, 126)
            scales = np.exp2(exponents).astype(np.float32)
        else:
            scales = self._stored(scales)
        return Ranges(scales, np.zeros(scales.shape, np.float32))

    def _stored(self, scales: Float32) -> Float32:
        return to_float32(
            from_float32(scales.astype(np.float32), self.scale_format), self.scale_format
        )


@cache
def code_values(bits: int) -> Float32:
    """The value of each code: E2M1 for 4 bits, E4M3 (without infinities) for 8; NaN where none."""
    mantissa_bits, bias = (1, 1) if bits == 4 else (3, 7)
    code = np.arange(1 << (bits - 1))
    exponent, mantissa = code >> mantissa_bits, code & ((1 << mantissa_bits) - 1)
    fraction = mantissa / (1 << mantissa_bits)
    normal = (1 + fraction) * 2.0 ** (exponent - bias)
    positive = np.where(exponent == 0, fraction * 2.0 ** (1 - bias), normal)
    if bits == 8:
        positive[-1] = np.nan
    return np.concatenate([positive, -positive]).astype(np.float32)


@cache
def _sorted_codes(bits: int) -> tuple[Codes, Float32]:
    """Codes by rising value (one zero, no NaN), and the midpoints between them."""
    values = code_values(bits)
    usable = np.flatnonzero(~np.isnan(values) & ~((values == 0) & np.signbit(values)))
    order = usable[np.argsort(values[usable])]
    rising = values[order]
    return order.astype(np.uint8), ((rising[1:] + rising[:-1]) / 2).astype(np.float32)


def _nearest_in_table(x: Float32, bits: int) -> Codes:
    codes, middles = _sorted_codes(bits)
    nearest: Codes = codes[np.searchsorted(middles, x)]
    return nearest
