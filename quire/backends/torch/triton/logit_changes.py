"""What changes logits before a token is drawn: masks, and penalties for tokens that were seen.

Logits are [S, V] float32, V contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from quire.backends.torch.triton.launcher import Launcher

__all__ = ["Penalties", "adjust_logits", "adjust_rows", "count_tokens", "count_tokens_of_rows"]

SEEN = 1 << 30
"""Beside the count of a token in the output: it is in prompt or output."""


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


@triton.jit(do_not_specialize=["length", "token_stride"])
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
