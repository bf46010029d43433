"""Numbers of 8 bits inside kernels: e4m3 floats read and written with integer instructions.

So they are the same on devices without such floats (sm_80), on those with another kind of them
(gfx942 has no negative zero), and in Triton's interpreter.  Roundings are those of
quire/ops/number_formats.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["e4m3_of_number", "nearest_integer", "number_of_e4m3", "pairs_of_codes", "row_codes"]


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


@triton.jit
def row_codes(x, inside, dtype: tl.constexpr):
    """Codes of the rows [rows, n] float32, int8 or uint8 (e4m3), and their scales [rows].

    A row with a number that is not finite has codes 0 and a scale that is none.
    """
    LARGEST: tl.constexpr = 127.0 if dtype == tl.int8 else 448.0
    size = tl.where(inside, tl.abs(x), 0.0)
    is_finite = tl.min((size < float("inf")).to(tl.int32), 1) > 0
    most = tl.max(tl.where(size < float("inf"), size, 0.0), 1)
    parts = tl.div_rn(x, (tl.zeros_like(x) + tl.where(most > 0, most, 1.0)[:, None])) * LARGEST
    parts = tl.where((is_finite & (most > 0))[:, None], parts, 0.0)
    codes = nearest_integer(parts).to(tl.int8) if dtype == tl.int8 else e4m3_of_number(parts)
    scale = tl.where(is_finite, tl.div_rn(most, tl.zeros_like(most) + LARGEST), float("nan"))
    return codes, scale


@triton.jit
def pairs_of_codes(x, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Codes of 4 bits of WIDTH numbers of rows [ROWS, BLOCK] float32, two a byte; scales, minimums.

    A row with a number that is not finite has codes 0 and a scale that is none.
    """
    inside = (tl.arange(0, BLOCK) < WIDTH)[None, :]
    size = tl.where(inside, tl.abs(x), 0.0)
    is_finite = tl.min((size < float("inf")).to(tl.int32), 1) > 0
    low = tl.where(is_finite, tl.min(tl.where(inside, x, float("inf")), 1), 0.0)
    high = tl.where(is_finite, tl.max(tl.where(inside, x, float("-inf")), 1), 0.0)
    fifteen = tl.full([ROWS], 15.0, tl.float32)
    scale = tl.div_rn(high, fifteen) - tl.div_rn(low, fifteen)
    step = 0.5 * scale  # of halves, for the difference of two large numbers may be none
    has_steps = is_finite & (step > 0)
    steps = tl.zeros_like(x) + tl.where(has_steps, step, 1.0)[:, None]
    parts = tl.div_rn(0.5 * x - (0.5 * low)[:, None], steps)
    parts = tl.minimum(tl.where(has_steps[:, None] & inside, parts, 0.0), 15.0)
    codes = nearest_integer(parts).to(tl.int32)
    first, second = tl.split(tl.reshape(codes, [ROWS, BLOCK // 2, 2]))
    return (first | (second << 4)).to(tl.uint8), tl.where(is_finite, scale, float("nan")), low
