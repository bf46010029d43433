"""The draw of a token for each row of logits, without sorting a row.

quire/sampling/reference.py says what a row goes through.  A filter is a key and how many tokens
with just that key it leaves, the lowest ids first: found by bisection, a pass over the row for each
bit.
Logits are [S, V] float32, V contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from quire.backends.torch.sampling.randoms import UNITS
from quire.backends.torch.triton.launcher import Launcher
from quire.backends.torch.triton.row_weights import (
    block_of_row,
    float_weights,
    highest_of_row,
    keys_of,
    whole_weights,
)

__all__ = ["DrawRules", "draw_tokens", "sample_rows"]


@dataclass(frozen=True)
class DrawRules:
    """Of each row: temperature and min_p float32; top_k int32, 0: all; top_p, draw int32.

    top_p: times 2^24, 2^24: all.  draw: quire.sampling.reference.uniform times 2^24.
    """

    temperature: torch.Tensor
    min_p: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    draw: torch.Tensor


def draw_tokens(gpu: Launcher, logits: torch.Tensor, rows: DrawRules, out: torch.Tensor) -> None:
    """out int32 [S]: the token of each row, or -1 where no logit is above minus infinity."""
    tile = gpu.tile("sampling", "")
    gpu.run(
        sample_rows, (len(logits),), tile, logits=logits, temperature=rows.temperature,
        min_p=rows.min_p, top_k=rows.top_k, top_p=rows.top_p, draw=rows.draw, out=out,
        vocabulary=logits.shape[1], stride=logits.stride(0), UNITS=UNITS, BLOCK=tile.columns,
    )  # fmt: skip


@triton.jit
def _share(total, share, UNITS: tl.constexpr):
    """floor(total * share / 2^UNITS), for a total below 2^58."""
    high = total >> UNITS
    low = total & ((1 << UNITS) - 1)
    return high * share + ((low * share) >> UNITS)


@triton.jit
def _is_kept(key, limit, ties_left):
    """Keys above the limit, and so many of those at it, the first ones."""
    is_tie = (key == limit).to(tl.int32)
    rank = tl.cumsum(is_tie, 0) - is_tie
    return (key > limit) | ((is_tie > 0) & (rank < ties_left)), tl.sum(is_tie, 0)


@triton.jit
def _count(logits, key_from, vocabulary, BLOCK: tl.constexpr):
    """Tokens with keys from key_from on."""
    count = tl.zeros([BLOCK], tl.int32)
    for start in range(0, vocabulary, BLOCK):
        _, x = block_of_row(logits, start, vocabulary, BLOCK)
        count += (keys_of(x) >= key_from).to(tl.int32)
    return tl.sum(count, 0)


@triton.jit
def _mass(logits, key_from, limit, ties, highest, temperature, vocabulary, BLOCK: tl.constexpr):
    """The weights of kept tokens with keys from key_from on, and the number of those at it."""
    mass = tl.zeros([BLOCK], tl.int64)
    at_it = tl.zeros([BLOCK], tl.int32)
    for start in range(0, vocabulary, BLOCK):
        _, x = block_of_row(logits, start, vocabulary, BLOCK)
        key = keys_of(x)
        is_above = (key > limit) & (key >= key_from)
        mass += tl.where(is_above, whole_weights(x, highest, temperature), 0)
        at_it += ((key == limit) & (key >= key_from)).to(tl.int32)
    limit_logit = tl.where(limit < 0, limit ^ 0x7FFFFFFF, limit).to(tl.float32, bitcast=True)
    kept_ties = tl.minimum(tl.sum(at_it, 0), ties).to(tl.int64)
    return tl.sum(mass, 0) + kept_ties * whole_weights(limit_logit, highest, temperature)


@triton.jit
def _middle(low, high):
    """Between low < high of any sign, and above low."""
    return low + ((high.to(tl.int64) - low.to(tl.int64) + 1) // 2).to(tl.int32)


@triton.jit
def sample_rows(
    logits, temperature, min_p, top_k, top_p, draw, out, vocabulary, stride, UNITS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Row program_id(0)."""
    row = tl.program_id(0)
    logits += row.to(tl.int64) * stride
    most, token_of_most, highest = highest_of_row(logits, vocabulary, BLOCK)
    heat = tl.load(temperature + row)
    if most <= -2139095041:  # minus infinity, or no number
        tl.store(out + row, -1)
        return
    if heat == 0.0:
        tl.store(out + row, token_of_most)
        return
    # The limits so far: every key above `limit`, and `ties` of the tokens at it.
    limit, ties = tl.full([], -2147483647, tl.int32), tl.full([], 2147483647, tl.int32)
    least = tl.load(min_p + row)
    if least > 0.0:
        low = tl.full([], -2147483647, tl.int32)
        high = most
        while low < high:  # the lowest key that is likely enough
            middle = _middle(low, high) - 1
            bits = tl.where(middle < 0, middle ^ 0x7FFFFFFF, middle)
            x = bits.to(tl.float32, bitcast=True)
            is_likely = float_weights(x, highest, heat) >= least
            high = tl.where(is_likely, middle, high)
            low = tl.where(is_likely, low, middle + 1)
        limit = high
    wanted = tl.load(top_k + row)
    if wanted > 0:  # noqa: SIM102 - kernels compute both sides of `and`
        if _count(logits, limit, vocabulary, BLOCK) > wanted:
            low, high = limit, most
            while low < high:  # the highest key with enough tokens from it on
                middle = _middle(low, high)
                is_enough = _count(logits, middle, vocabulary, BLOCK) >= wanted
                low = tl.where(is_enough, middle, low)
                high = tl.where(is_enough, high, middle - 1)
            limit = low
            ties = wanted
            if low < most:
                ties -= _count(logits, low + 1, vocabulary, BLOCK)
    total = _mass(logits, limit, limit, ties, highest, heat, vocabulary, BLOCK)
    share = tl.load(top_p + row).to(tl.int64)
    if share < (1 << UNITS):
        enough = tl.maximum(_share(total, share, UNITS), 1)
        low, high = limit, most
        while low < high:  # the highest key with enough weight from it on
            middle = _middle(low, high)
            mass = _mass(logits, middle, limit, ties, highest, heat, vocabulary, BLOCK)
            low = tl.where(mass >= enough, middle, low)
            high = tl.where(mass >= enough, high, middle - 1)
        above = total * 0
        if low < most:
            above = _mass(logits, low + 1, limit, ties, highest, heat, vocabulary, BLOCK)
        bits = tl.where(low < 0, low ^ 0x7FFFFFFF, low)
        each = tl.maximum(whole_weights(bits.to(tl.float32, bitcast=True), highest, heat), 1)
        needed = tl.maximum((enough - above + each - 1) // each, 1)
        ties_here = tl.where(low == limit, ties, 2147483647).to(tl.int64)
        ties = tl.minimum(needed, ties_here).to(tl.int32)
        limit = low
        total = _mass(logits, limit, limit, ties, highest, heat, vocabulary, BLOCK)
    # The first token whose running sum exceeds the drawn share of the total.
    goal = _share(total, tl.load(draw + row).to(tl.int64), UNITS)
    found = tl.full([], -1, tl.int32)
    passed = total * 0
    start = 0
    while (found < 0) & (start < vocabulary):
        token, x = block_of_row(logits, start, vocabulary, BLOCK)
        is_kept, ties_here = _is_kept(keys_of(x), limit, ties)
        weight = tl.where(is_kept, whole_weights(x, highest, heat), 0)
        here = tl.sum(weight, 0)
        if passed + here > goal:
            sums = passed + tl.cumsum(weight, 0)
            found = tl.min(tl.where(sums > goal, token, 2147483647), 0)
        passed += here
        ties -= ties_here
        start += BLOCK
    tl.store(out + row, found)
