"""Blocks of 32 columns with one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, and the tables IQ4_NL, MXFP4.

d: float16 scale, m: float16 offset, q: 4-bit codes, the low halves of 16 bytes first, h: their
fifth bits, one byte for eight columns.  Names ending in 0 are d (q - middle), in 1 are d q + m.
Sources: the block structures of ggml; Open Compute Project, Microscaling Formats 1.0 (MXFP4).
"""

from __future__ import annotations

import numpy as np

from quire.quant.gguf_blocks.block_format import (
    BlockFormat,
    Blocks,
    Bytes,
    Float32,
    fields,
    half,
    split,
)

__all__ = ["FORMATS", "IQ4_VALUES"]

IQ4_VALUES = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)
# Twice the values of a 4-bit float with two exponent bits; the scale is halved in return.
E2M1_DOUBLED = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)


def _q4_0(blocks: Bytes) -> Blocks:
    d, q = split(blocks, 2, 16)
    return Blocks(fields(q, 4, 16), half(d))


def _q4_1(blocks: Bytes) -> Blocks:
    d, m, q = split(blocks, 2, 2, 16)
    return Blocks(fields(q, 4, 16), half(d), minimums=-half(m))


def _q5_0(blocks: Bytes) -> Blocks:
    d, h, q = split(blocks, 2, 4, 16)
    return Blocks(_five_bits(h, q), half(d))


def _q5_1(blocks: Bytes) -> Blocks:
    d, m, h, q = split(blocks, 2, 2, 4, 16)
    return Blocks(_five_bits(h, q), half(d), minimums=-half(m))


def _q8_0(blocks: Bytes) -> Blocks:
    d, q = split(blocks, 2, 32)
    return Blocks(q ^ np.uint8(128), half(d))  # signed → moved up by 128


def _iq4_nl(blocks: Bytes) -> Blocks:
    d, q = split(blocks, 2, 16)
    return Blocks(fields(q, 4, 16), half(d), table=IQ4_VALUES)


def _mxfp4(blocks: Bytes) -> Blocks:
    exponent, q = split(blocks, 1, 16)
    return Blocks(fields(q, 4, 16), _half_power_of_two(exponent), table=E2M1_DOUBLED)


def _five_bits(h: Bytes, q: Bytes) -> Bytes:
    fifth: Bytes = np.unpackbits(h, axis=-1, bitorder="little") << np.uint8(4)
    return fields(q, 4, 16) | fifth


def _half_power_of_two(exponent: Bytes) -> Float32:
    """2**(exponent - 128): the two smallest are subnormal."""
    wide = exponent.astype(np.uint32)
    bits = np.where(wide < 2, np.uint32(0x200000) << wide, (wide - 1) << np.uint32(23))
    powers: Float32 = bits.astype(np.uint32).view(np.float32)
    return powers


FORMATS = (
    BlockFormat("Q4_0", 32, 18, 4, 32, _q4_0),
    BlockFormat("Q4_1", 32, 20, 4, 32, _q4_1),
    BlockFormat("Q5_0", 32, 22, 5, 32, _q5_0),
    BlockFormat("Q5_1", 32, 24, 5, 32, _q5_1),
    BlockFormat("Q8_0", 32, 34, 8, 32, _q8_0),
    BlockFormat("IQ4_NL", 32, 18, 4, 32, _iq4_nl),
    BlockFormat("MXFP4", 32, 17, 4, 32, _mxfp4),
)
