"""Attention over the paged cache."""

from __future__ import annotations

import numpy as np
import torch

from quire.backends.torch.step import Step
from quire.backends.torch.triton.attention import AttentionRules, attend, tokens_per_tile
from quire.backends.torch.triton.bodies.attention_step import (
    attention_inputs,
    cached_heads,
    query_dtype,
)
from quire.backends.torch.triton.bodies.registering import gpu_of, triton_body
from quire.ops.attention import PagedAttention

__all__ = ["attend_paged"]

LARGEST_HEAD = 256


def _declines(op: PagedAttention) -> str | None:
    if op.head_dim > LARGEST_HEAD:
        return f"heads of {op.head_dim} do not fit; Triton's have {LARGEST_HEAD} numbers at most"
    return None


@triton_body(PagedAttention, declines=_declines, captured="decode")
def attend_paged(step: Step, op: PagedAttention, queries: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """All requests at once, prompts and single tokens alike."""
    gpu, tokens = gpu_of(step), len(queries)
    slopes = None
    if op.slopes:
        slopes = step.array(("slopes", op.slopes), lambda _: np.array(op.slopes, np.float32))
    rules = AttentionRules(
        op.scale, op.window or 0, op.chunk or 0, op.softcap or 0.0, op.bidirectional, slopes,
        None if op.sinks is None else step.weights.vector(op.sinks),
    )  # fmt: skip
    cache = cached_heads(step, op.layer)
    is_int4 = cache.key_minimums is not None
    tile_tokens = tokens_per_tile(gpu, op.heads, op.kv_heads, op.head_dim, is_int4)
    inputs = attention_inputs(step, op, tile_tokens)
    shape = (tokens, op.heads, op.head_dim)
    out = queries.new_empty(shape, dtype=torch.float32)
    rounded = queries.to(query_dtype(step)).view(shape)
    attend(gpu, rounded, cache, inputs, rules, out)
    return (out.view(tokens, -1),)
