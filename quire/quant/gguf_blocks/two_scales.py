"""Blocks of 256 columns whose groups have small integer scales, and a float16 scale of those.

Q2_K to Q6_K and IQ4_XS.  d, dmin: float16; a group's scale is d * (its integer), its minimum
dmin * (its integer), both rounded to float32.  q: the low bits of the codes, h: the others.
Source: the block structures of ggml.
"""

from __future__ import annotations

import numpy as np

from quire.quant.gguf_blocks.block_format import BlockFormat, Blocks, Bytes, fields, half, split
from quire.quant.gguf_blocks.one_scale import IQ4_VALUES

__all__ = ["FORMATS"]


def _q2_k(blocks: Bytes) -> Blocks:
    s, q, d, dmin = split(blocks, 16, 64, 2, 2)
    scales, minimums = s & np.uint8(15), s >> np.uint8(4)
    return Blocks(fields(q, 2, 32), half(d) * scales, minimums=half(dmin) * minimums)


def _q3_k(blocks: Bytes) -> Blocks:
    h, q, s, d = split(blocks, 32, 64, 12, 2)
    codes = fields(q, 2, 32) | (fields(h, 1, 32) << np.uint8(2))
    low, high = split(s, 8, 4)
    scales = fields(low, 4, 8) | (fields(high, 2, 4) << np.uint8(4))
    return Blocks(codes, half(d) * (scales.astype(np.float32) - np.float32(32)))


def _q4_k(blocks: Bytes) -> Blocks:
    d, dmin, s, q = split(blocks, 2, 2, 12, 128)
    scales, minimums = _six_bit_pairs(s)
    return Blocks(fields(q, 4, 32), half(d) * scales, minimums=half(dmin) * minimums)


def _q5_k(blocks: Bytes) -> Blocks:
    d, dmin, s, h, q = split(blocks, 2, 2, 12, 32, 128)
    codes = fields(q, 4, 32) | (fields(h, 1, 32) << np.uint8(4))
    scales, minimums = _six_bit_pairs(s)
    return Blocks(codes, half(d) * scales, minimums=half(dmin) * minimums)


def _q6_k(blocks: Bytes) -> Blocks:
    q, h, s, d = split(blocks, 128, 64, 16, 2)
    codes = fields(q, 4, 64) | (fields(h, 2, 32) << np.uint8(4))
    return Blocks(codes, half(d) * s.view(np.int8).astype(np.float32))


def _iq4_xs(blocks: Bytes) -> Blocks:
    d, high, low, q = split(blocks, 2, 2, 4, 128)
    scales = fields(low, 4, 1) | (fields(high, 2, 1) << np.uint8(4))
    wide = half(d) * (scales.astype(np.float32) - np.float32(32))
    return Blocks(fields(q, 4, 16), wide, table=IQ4_VALUES)


def _six_bit_pairs(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Eight scales and eight minimums of 6 bits, out of 12 bytes.

    Bytes 0-3 hold scales 0-3 and bytes 4-7 minimums 0-3; their two upper bits are the upper ones
    of scales and minimums 4-7, whose lower bits are the halves of bytes 8-11.
    """
    scales, minimums, lower = split(packed, 4, 4, 4)
    six, two, four = np.uint8(63), np.uint8(48), np.uint8(15)
    return (
        np.concatenate([scales & six, (lower & four) | (scales >> 2 & two)], axis=-1),
        np.concatenate([minimums & six, (lower >> 4) | (minimums >> 2 & two)], axis=-1),
    )


FORMATS = (
    BlockFormat("Q2_K", 256, 84, 2, 16, _q2_k),
    BlockFormat("Q3_K", 256, 110, 3, 16, _q3_k),
    BlockFormat("Q4_K", 256, 144, 4, 32, _q4_k),
    BlockFormat("Q5_K", 256, 176, 5, 32, _q5_k),
    BlockFormat("Q6_K", 256, 210, 6, 16, _q6_k),
    BlockFormat("IQ4_XS", 256, 136, 4, 32, _iq4_xs),
)
