"""Log-probabilities of tokens, of the most likely ones, and ranks, without sorting a row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from quire.backends.torch.triton.launcher import Launcher
from quire.backends.torch.triton.row_weights import (
    block_of_row,
    highest_of_row,
    keys_of,
    whole_weights,
)

__all__ = ["describe_rows", "log_probabilities"]


def log_probabilities(
    gpu: Launcher,
    logits: torch.Tensor,
    tokens: torch.Tensor,
    told: torch.Tensor,
    ids: torch.Tensor,
    values: torch.Tensor,
    ranks: torch.Tensor,
) -> None:
    """Of logits as the model gave them: each row's token first, then the most likely ones.

    tokens: int32 [S]; a row with -1 is skipped.  told: int32 [S], how many of them a row wants;
    with 0 it is skipped.  ids int32 and values float32 [S, any]; an id is -1 where the row has no
    more numbers.  ranks: int32 [S], of the tokens, from 1.
    """
    tile = gpu.tile("sampling", "")
    gpu.run(
        describe_rows, (len(logits),), tile, logits=logits, tokens=tokens, told=told, ids=ids,
        values=values, ranks=ranks, vocabulary=logits.shape[1], stride=logits.stride(0),
        width=ids.shape[1], BLOCK=tile.columns,
    )  # fmt: skip


@triton.jit(do_not_specialize=["width"])
def describe_rows(
    logits, tokens, told, ids, values, ranks, vocabulary, stride, width, BLOCK: tl.constexpr
):
    """Row program_id(0)."""
    row = tl.program_id(0).to(tl.int64)
    chosen = tl.load(tokens + row)
    wanted = tl.load(told + row)
    if (chosen < 0) | (wanted == 0):
        return
    logits += row * stride
    most, best, highest = highest_of_row(logits, vocabulary, BLOCK)
    total = tl.zeros([BLOCK], tl.int64)
    own_logit = tl.load(logits + chosen)
    own = keys_of(own_logit)
    before = tl.zeros([BLOCK], tl.int32)
    for start in range(0, vocabulary, BLOCK):
        token, x = block_of_row(logits, start, vocabulary, BLOCK)
        key = keys_of(x)
        total += tl.where(token < vocabulary, whole_weights(x, highest, 1.0), 0)
        is_before = (key > own) | ((key == own) & (token < chosen))
        before += (is_before & (token < vocabulary)).to(tl.int32)
    log_total = tl.log(tl.sum(total, 0).to(tl.float32) / 1099511627776.0)
    tl.store(ids + row * width, chosen)
    tl.store(values + row * width, own_logit - highest - log_total)
    tl.store(ranks + row, tl.sum(before, 0) + 1)
    last_key, last_token = most, best
    for place in range(1, wanted):
        is_there = last_token < vocabulary
        tl.store(ids + row * width + place, tl.where(is_there, last_token, -1))
        logit = tl.load(logits + last_token, mask=is_there, other=float("-inf"))
        tl.store(values + row * width + place, logit - highest - log_total)
        # The next one: the same key and a higher id, or else the highest key below.
        best_key = tl.full([BLOCK], -2147483648, tl.int32)
        where = tl.full([BLOCK], 2147483647, tl.int32)
        for start in range(0, vocabulary, BLOCK):
            token, x = block_of_row(logits, start, vocabulary, BLOCK)
            key = keys_of(x)
            is_after = (key < last_key) | ((key == last_key) & (token > last_token))
            is_better = is_after & (key > best_key)
            where = tl.where(is_better, token, where)
            best_key = tl.where(is_better, key, best_key)
        last_key = tl.max(best_key, 0)
        last_token = tl.min(tl.where(best_key == last_key, where, 2147483647), 0)
