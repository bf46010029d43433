"""Masks, penalties and the draw of a token for each row of logits, without sorting a row.

quire/sampling/reference.py says what a row goes through.  Here tokens have ordered integer keys in
place of logits, and a filter is a key and how many tokens with just that key it leaves, the lowest
ids first: found by bisection, a pass over the row for each bit.  Weights are whole multiples of
2^-40 of the largest one, so that their sums are exact, in any order and on any device.

Shapes: logits [S, V] float32, V contiguous; of each row the arrays of SamplingRows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from quire.backends.torch.triton.launcher import Launcher

__all__ = [
    "Penalties",
    "SamplingRows",
    "adjust_logits",
    "adjust_rows",
    "count_tokens",
    "count_tokens_of_rows",
    "describe_rows",
    "log_probabilities",
    "sample",
    "sample_rows",
]

UNITS = 24
"""Bits of random numbers and of top-p."""
SEEN = 1 << 30
"""Beside the count of a token in the output: it is in prompt or output."""


@dataclass(frozen=True)
class SamplingRows:
    """Of each row: temperature and min_p float32; top_k int32, 0: all; top_p, draw int32.

    top_p: times 2^24, 2^24: all.  draw: quire.sampling.reference.uniform times 2^24.
    """

    temperature: torch.Tensor
    min_p: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    draw: torch.Tensor


@dataclass(frozen=True)
class Penalties:
    """counts: int32 [rows with penalties, V] as count_tokens leaves them.

    rows: int32 [S], the row of counts of each row of logits, or -1.  repetition, presence,
    frequency: float32 [S].
    """

    counts: torch.Tensor
    rows: torch.Tensor
    repetition: torch.Tensor
    presence: torch.Tensor
    frequency: torch.Tensor


def count_tokens(
    gpu: Launcher, tokens: torch.Tensor, prompts: torch.Tensor, counts: torch.Tensor
) -> None:
    """Add tokens int32 [rows, L] to counts [rows, V], which begin as zeros.

    prompts: int32 [rows], how many of the first tokens belong to the prompt.  Ids that are not in
    the vocabulary, such as -1 in padding, are ignored.
    """
    rows, length = tokens.shape
    tile = gpu.tile("sampling", "")
    gpu.run(
        count_tokens_of_rows, (rows, -(-length // tile.columns)), tile, tokens=tokens,
        prompts=prompts, counts=counts, length=length, vocabulary=counts.shape[1],
        token_stride=tokens.stride(0), SEEN=SEEN, BLOCK=tile.columns,
    )  # fmt: skip


def adjust_logits(
    gpu: Launcher,
    logits: torch.Tensor,
    masks: torch.Tensor | None,
    mask_rows: torch.Tensor | None,
    penalties: Penalties | None,
) -> None:
    """Mask and penalize logits in place; biases are in them.

    masks: int32 [any, ceil(V / 32)], a bit for each token that may come.  mask_rows: int32 [S],
    the mask of each row, or -1.
    """
    rows, vocabulary = logits.shape
    tile = gpu.tile("sampling", "")
    gpu.run(
        adjust_rows, (rows, -(-vocabulary // tile.columns)), tile, logits=logits, masks=masks,
        mask_rows=mask_rows, counts=None if penalties is None else penalties.counts,
        count_rows=None if penalties is None else penalties.rows,
        repetition=None if penalties is None else penalties.repetition,
        presence=None if penalties is None else penalties.presence,
        frequency=None if penalties is None else penalties.frequency,
        vocabulary=vocabulary, stride=logits.stride(0),
        mask_stride=0 if masks is None else masks.stride(0), SEEN=SEEN, BLOCK=tile.columns,
    )  # fmt: skip


def sample(gpu: Launcher, logits: torch.Tensor, rows: SamplingRows, out: torch.Tensor) -> None:
    """out int32 [S]: the token of each row, or -1 where no logit is above minus infinity."""
    tile = gpu.tile("sampling", "")
    gpu.run(
        sample_rows, (len(logits),), tile, logits=logits, temperature=rows.temperature,
        min_p=rows.min_p, top_k=rows.top_k, top_p=rows.top_p, draw=rows.draw, out=out,
        vocabulary=logits.shape[1], stride=logits.stride(0), UNITS=UNITS, BLOCK=tile.columns,
    )  # fmt: skip


def log_probabilities(
    gpu: Launcher,
    logits: torch.Tensor,
    tokens: torch.Tensor,
    ids: torch.Tensor,
    values: torch.Tensor,
    ranks: torch.Tensor,
) -> None:
    """Of logits as the model gave them: each row's token first, then the n most likely ones.

    tokens: int32 [S]; a row with -1 is skipped.  ids int32 and values float32 [S, 1 + n]; an id
    is -1 where the row has no more numbers.
    ranks: int32 [S], of the tokens, from 1.
    """
    tile = gpu.tile("sampling", "")
    gpu.run(
        describe_rows, (len(logits),), tile, logits=logits, tokens=tokens, ids=ids, values=values,
        ranks=ranks, vocabulary=logits.shape[1], stride=logits.stride(0),
        width=ids.shape[1], BLOCK=tile.columns,
    )  # fmt: skip


@triton.jit
def _keys(logits):
    """Integers in the order of logits; the lowest for what is no number."""
    bits = logits.to(tl.int32, bitcast=True)
    keys = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    keys = tl.where(logits == 0.0, 0, keys)
    return tl.where(logits == logits, keys, -2147483648)


@triton.jit
def _block(logits, start, vocabulary, BLOCK: tl.constexpr):
    """Token ids, and their logits: no number beyond the vocabulary."""
    token = start + tl.arange(0, BLOCK)
    return token, tl.load(logits + token, mask=token < vocabulary, other=float("nan"))


@triton.jit
def _finite(logits):
    """As quire.sampling.reference.softmax_weights sees them."""
    most = 3.4028234663852886e38
    clipped = tl.minimum(tl.maximum(logits, -most), most)
    return tl.where(logits == logits, clipped, -most)


@triton.jit
def _float_weights(logits, highest, temperature):
    return tl.exp((_finite(logits) - highest) / temperature)


@triton.jit
def _weights(logits, highest, temperature):
    """Whole multiples of 2^-40."""
    return (_float_weights(logits, highest, temperature) * 1099511627776.0).to(tl.int64)


@triton.jit
def _share(total, share, UNITS: tl.constexpr):
    """floor(total * share / 2^UNITS), for a total below 2^58."""
    high = total >> UNITS
    low = total & ((1 << UNITS) - 1)
    return high * share + ((low * share) >> UNITS)


@triton.jit
def _highest(logits, vocabulary, BLOCK: tl.constexpr):
    """The highest key of a row, the first token that has it, and the highest logit, clipped."""
    best = tl.full([BLOCK], -2147483648, tl.int32)
    where = tl.full([BLOCK], 2147483647, tl.int32)
    top = tl.full([BLOCK], -3.4028234663852886e38, tl.float32)
    for start in range(0, vocabulary, BLOCK):
        token, x = _block(logits, start, vocabulary, BLOCK)
        key = _keys(x)
        where = tl.where(key > best, token, where)
        best = tl.maximum(best, key)
        top = tl.maximum(top, _finite(x))
    most = tl.max(best, 0)
    return most, tl.min(tl.where(best == most, where, 2147483647), 0), tl.max(top, 0)


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
        _, x = _block(logits, start, vocabulary, BLOCK)
        count += (_keys(x) >= key_from).to(tl.int32)
    return tl.sum(count, 0)


@triton.jit
def _mass(logits, key_from, limit, ties, highest, temperature, vocabulary, BLOCK: tl.constexpr):
    """The weights of kept tokens with keys from key_from on, and the number of those at it."""
    mass = tl.zeros([BLOCK], tl.int64)
    at_it = tl.zeros([BLOCK], tl.int32)
    for start in range(0, vocabulary, BLOCK):
        _, x = _block(logits, start, vocabulary, BLOCK)
        key = _keys(x)
        is_above = (key > limit) & (key >= key_from)
        mass += tl.where(is_above, _weights(x, highest, temperature), 0)
        at_it += ((key == limit) & (key >= key_from)).to(tl.int32)
    limit_logit = tl.where(limit < 0, limit ^ 0x7FFFFFFF, limit).to(tl.float32, bitcast=True)
    kept_ties = tl.minimum(tl.sum(at_it, 0), ties).to(tl.int64)
    return tl.sum(mass, 0) + kept_ties * _weights(limit_logit, highest, temperature)


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
    most, token_of_most, highest = _highest(logits, vocabulary, BLOCK)
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
            is_likely = _float_weights(x, highest, heat) >= least
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
        each = tl.maximum(_weights(bits.to(tl.float32, bitcast=True), highest, heat), 1)
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
        token, x = _block(logits, start, vocabulary, BLOCK)
        is_kept, ties_here = _is_kept(_keys(x), limit, ties)
        weight = tl.where(is_kept, _weights(x, highest, heat), 0)
        here = tl.sum(weight, 0)
        if passed + here > goal:
            sums = passed + tl.cumsum(weight, 0)
            found = tl.min(tl.where(sums > goal, token, 2147483647), 0)
        passed += here
        ties -= ties_here
        start += BLOCK
    tl.store(out + row, found)


@triton.jit
def describe_rows(
    logits, tokens, ids, values, ranks, vocabulary, stride, width, BLOCK: tl.constexpr
):
    """Row program_id(0)."""
    row = tl.program_id(0).to(tl.int64)
    chosen = tl.load(tokens + row)
    if chosen < 0:
        return
    logits += row * stride
    most, best, highest = _highest(logits, vocabulary, BLOCK)
    total = tl.zeros([BLOCK], tl.int64)
    own_logit = tl.load(logits + chosen)
    own = _keys(own_logit)
    before = tl.zeros([BLOCK], tl.int32)
    for start in range(0, vocabulary, BLOCK):
        token, x = _block(logits, start, vocabulary, BLOCK)
        key = _keys(x)
        total += tl.where(token < vocabulary, _weights(x, highest, 1.0), 0)
        is_before = (key > own) | ((key == own) & (token < chosen))
        before += (is_before & (token < vocabulary)).to(tl.int32)
    log_total = tl.log(tl.sum(total, 0).to(tl.float32) / 1099511627776.0)
    tl.store(ids + row * width, chosen)
    tl.store(values + row * width, own_logit - highest - log_total)
    tl.store(ranks + row, tl.sum(before, 0) + 1)
    last_key, last_token = most, best
    for place in range(1, width):
        is_there = last_token < vocabulary
        tl.store(ids + row * width + place, tl.where(is_there, last_token, -1))
        logit = tl.load(logits + last_token, mask=is_there, other=float("-inf"))
        tl.store(values + row * width + place, logit - highest - log_total)
        # The next one: the same key and a higher id, or else the highest key below.
        best_key = tl.full([BLOCK], -2147483648, tl.int32)
        where = tl.full([BLOCK], 2147483647, tl.int32)
        for start in range(0, vocabulary, BLOCK):
            token, x = _block(logits, start, vocabulary, BLOCK)
            key = _keys(x)
            is_after = (key < last_key) | ((key == last_key) & (token > last_token))
            is_better = is_after & (key > best_key)
            where = tl.where(is_better, token, where)
            best_key = tl.where(is_better, key, best_key)
        last_key = tl.max(best_key, 0)
        last_token = tl.min(tl.where(best_key == last_key, where, 2147483647), 0)


@triton.jit
def count_tokens_of_rows(
    tokens, prompts, counts, length, vocabulary, token_stride, SEEN: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Tokens at program_id(1) of the row program_id(0)."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    token = tl.load(tokens + row * token_stride + place, mask=place < length, other=-1)
    is_known = (token >= 0) & (token < vocabulary)
    at = counts + row * vocabulary + tl.where(is_known, token, 0)
    is_output = place >= tl.load(prompts + row)
    tl.atomic_or(at, SEEN, mask=is_known, sem="relaxed")
    tl.atomic_add(at, 1, mask=is_known & is_output, sem="relaxed")


@triton.jit
def adjust_rows(
    logits, masks, mask_rows, counts, count_rows, repetition, presence, frequency, vocabulary,
    stride, mask_stride, SEEN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Tokens at program_id(1) of the row program_id(0)."""
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = token < vocabulary
    at = logits + row * stride + token
    x = tl.load(at, mask=inside, other=0.0)
    if masks is not None:
        mask_row = tl.load(mask_rows + row)
        has_mask = mask_row >= 0
        words = masks + tl.maximum(mask_row, 0).to(tl.int64) * mask_stride + token // 32
        word = tl.load(words, mask=inside & has_mask, other=-1)
        x = tl.where((word >> (token % 32)) & 1 == 0, float("-inf"), x)
    if counts is not None:
        count_row = tl.load(count_rows + row)
        has_counts = count_row >= 0
        ours = counts + tl.maximum(count_row, 0).to(tl.int64) * vocabulary + token
        count = tl.load(ours, mask=inside & has_counts, other=0)
        factor = tl.load(repetition + row)
        changed = tl.where(x > 0.0, tl.div_rn(x, tl.zeros_like(x) + factor), x * factor)
        x = tl.where((count & SEEN) != 0, changed, x)
        times = (count & (SEEN - 1)).to(tl.float32)
        reduced = x - tl.load(frequency + row) * times - tl.load(presence + row)
        x = tl.where(times > 0, reduced, x)
    tl.store(at, x, mask=inside)
