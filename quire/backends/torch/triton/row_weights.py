"""Ordered keys and weights of logits, inside kernels that go over rows of them.

Tokens have integer keys in the order of their logits.  Weights are whole multiples of 2^-40 of the
largest one, so that their sums are exact, in any order and on any device.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = [
    "block_of_row",
    "finite_logits",
    "float_weights",
    "highest_of_row",
    "keys_of",
    "whole_weights",
]


@triton.jit
def keys_of(logits):
    """Integers in the order of logits; the lowest for what is no number."""
    bits = logits.to(tl.int32, bitcast=True)
    keys = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    keys = tl.where(logits == 0.0, 0, keys)
    return tl.where(logits == logits, keys, -2147483648)


@triton.jit
def block_of_row(logits, start, vocabulary, BLOCK: tl.constexpr):
    """Token ids, and their logits: no number beyond the vocabulary."""
    token = start + tl.arange(0, BLOCK)
    return token, tl.load(logits + token, mask=token < vocabulary, other=float("nan"))


@triton.jit
def finite_logits(logits):
    """As quire.sampling.reference.softmax_weights sees them."""
    most = 3.4028234663852886e38
    clipped = tl.minimum(tl.maximum(logits, -most), most)
    return tl.where(logits == logits, clipped, -most)


@triton.jit
def float_weights(logits, highest, temperature):
    return tl.exp((finite_logits(logits) - highest) / temperature)


@triton.jit
def whole_weights(logits, highest, temperature):
    """Whole multiples of 2^-40."""
    return (float_weights(logits, highest, temperature) * 1099511627776.0).to(tl.int64)


@triton.jit
def highest_of_row(logits, vocabulary, BLOCK: tl.constexpr):
    """The highest key of a row, the first token that has it, and the highest logit, clipped."""
    best = tl.full([BLOCK], -2147483648, tl.int32)
    where = tl.full([BLOCK], 2147483647, tl.int32)
    top = tl.full([BLOCK], -3.4028234663852886e38, tl.float32)
    for start in range(0, vocabulary, BLOCK):
        token, x = block_of_row(logits, start, vocabulary, BLOCK)
        key = keys_of(x)
        where = tl.where(key > best, token, where)
        best = tl.maximum(best, key)
        top = tl.maximum(top, finite_logits(x))
    most = tl.max(best, 0)
    return most, tl.min(tl.where(best == most, where, 2147483647), 0), tl.max(top, 0)
