"""Numbers of 8 bits inside kernels: e4m3 floats read and written with integer instructions.

So they are the same on devices without such floats (sm_80), on those with another kind of them
(gfx942 has no negative zero), and in Triton's interpreter.  Roundings are those of
quire/ops/number_formats.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["e4m3_of_number", "nearest_integer", "number_of_e4m3"]


@triton.jit
def number_of_e4m3(code):
    """The number of each code (uint8), exact, as float16; the two codes of NaN are 480."""
    wide = code.to(tl.uint16)
    bits = ((wide & 0x80) << 8) | ((wide & 0x7F) << 7)  # a float16 whose exponent is 8 too small
    return bits.to(tl.float16, bitcast=True) * 256.0


@triton.jit
def nearest_integer(x):
    """x to the nearest integer, ties to even, as float32; |x| < 2^22."""
    return (x + 12582912.0) - 12582912.0  # 1.5 * 2^23 leaves no bits below 1


@triton.jit
def e4m3_of_number(x):
    """The codes (uint8) of the nearest e4m3 floats, ties to even, of float32; above all: ±448."""
    bits = x.to(tl.uint32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    normal = ((magnitude + 0x7FFFF + ((magnitude >> 20) & 1)) >> 20).to(tl.int32) - 960
    size = tl.abs(x)
    is_small = size < 0.015625
    subnormal = nearest_integer(tl.where(is_small, size, 0.0) * 512.0).to(tl.int32)
    code = tl.minimum(tl.where(is_small, subnormal, normal), 0x7E)
    return (code.to(tl.uint32) | ((bits >> 24) & 0x80)).to(tl.uint8)
