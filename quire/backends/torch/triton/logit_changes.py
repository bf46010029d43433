"""What changes logits before a token is drawn: masks, and penalties for tokens that were seen.

Logits are [S, V] float32, V contiguous.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from quire.backends.torch.sampling.changes import (
    COUNTS,
    FREQUENCY,
    MASK,
    PRESENCE,
    REPETITION,
    Changes,
)
from quire.backends.torch.sampling.token_counts import SEEN
from quire.backends.torch.triton.launcher import Launcher

__all__ = ["adjust_logits", "adjust_rows", "count_tokens", "count_tokens_of_rows"]


def count_tokens(
    gpu: Launcher,
    counts: torch.Tensor,
    at: torch.Tensor,
    tokens: torch.Tensor,
    prompts: torch.Tensor,
) -> None:
    """As quire.backends.torch.sampling.token_counts."""
    rows, length = tokens.shape
    tile = gpu.tile("sampling", "")
    gpu.run(
        count_tokens_of_rows, (rows, -(-length // tile.columns)), tile, tokens=tokens,
        at=at, prompts=prompts, counts=counts, length=length, vocabulary=counts.shape[1],
        token_stride=tokens.stride(0), SEEN=SEEN, BLOCK=tile.columns,
    )  # fmt: skip


def adjust_logits(gpu: Launcher, logits: torch.Tensor, changes: Changes, out: torch.Tensor) -> None:
    """out [S, V] = logits, masked and penalized; biases are in them."""
    rows, vocabulary = logits.shape
    masks, counts, columns = changes.masks, changes.counts, changes.columns
    tile = gpu.tile("sampling", "")
    gpu.run(
        adjust_rows, (rows, -(-vocabulary // tile.columns)), tile, logits=logits, out=out,
        masks=masks, counts=counts, mask_rows=columns[MASK], count_rows=columns[COUNTS],
        repetition=columns[REPETITION].view(torch.float32),
        presence=columns[PRESENCE].view(torch.float32),
        frequency=columns[FREQUENCY].view(torch.float32),
        vocabulary=vocabulary, stride=logits.stride(0),
        mask_stride=0 if masks is None else masks.stride(0), SEEN=SEEN, BLOCK=tile.columns,
    )  # fmt: skip


@triton.jit(do_not_specialize=["length", "token_stride"])
def count_tokens_of_rows(
    tokens, at, prompts, counts, length, vocabulary, token_stride, SEEN: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Tokens at program_id(1) of the text program_id(0)."""
    row = tl.program_id(0).to(tl.int64)
    to = tl.load(at + row).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    token = tl.load(tokens + row * token_stride + place, mask=place < length, other=-1)
    is_known = (token >= 0) & (token < vocabulary) & (to > 0)
    cell = counts + to * vocabulary + tl.where(is_known, token, 0)
    is_output = place >= tl.load(prompts + row)
    tl.atomic_or(cell, SEEN, mask=is_known, sem="relaxed")
    tl.atomic_add(cell, 1, mask=is_known & is_output, sem="relaxed")


@triton.jit
def adjust_rows(
    logits, out, masks, mask_rows, counts, count_rows, repetition, presence, frequency, vocabulary,
    stride, mask_stride, SEEN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Tokens at program_id(1) of the row program_id(0)."""
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = token < vocabulary
    x = tl.load(logits + row * stride + token, mask=inside, other=0.0)
    if masks is not None:
        mask_row = tl.load(mask_rows + row)
        has_mask = mask_row > 0
        words = masks + mask_row.to(tl.int64) * mask_stride + token // 32
        word = tl.load(words, mask=inside & has_mask, other=-1)
        x = tl.where((word >> (token % 32)) & 1 == 0, float("-inf"), x)
    if counts is not None:
        count_row = tl.load(count_rows + row)
        has_counts = count_row > 0
        ours = counts + count_row.to(tl.int64) * vocabulary + token
        count = tl.load(ours, mask=inside & has_counts, other=0)
        factor = tl.load(repetition + row)
        changed = tl.where(x > 0.0, tl.div_rn(x, tl.zeros_like(x) + factor), x * factor)
        x = tl.where((count & SEEN) != 0, changed, x)
        times = (count & (SEEN - 1)).to(tl.float32)
        reduced = x - tl.load(frequency + row) * times - tl.load(presence + row)
        x = tl.where(times > 0, reduced, x)
    tl.store(out + row * vocabulary + token, x, mask=inside)
