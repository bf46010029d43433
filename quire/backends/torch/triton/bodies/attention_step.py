"""What attention and the writing of keys read of a step, put on the device once for all layers.

Only this reads the host's arrays of a step, so a captured one has its numbers changed here.
"""

from __future__ import annotations

import numpy as np
import torch

from quire.backends.torch.arrays import DTYPES
from quire.backends.torch.kv_cache import CachedHeads as DeviceHeads
from quire.backends.torch.step import Step
from quire.backends.torch.triton.attention import (
    AttentionInputs,
    CachedHeads,
    num_chunks,
    query_tiles,
)
from quire.ops.attention import PagedAttention

__all__ = ["attention_inputs", "cached_heads", "query_dtype", "slots"]

ENOUGH_PROGRAMS = 256
"""With fewer, programs share the keys of a tile: devices have about a hundred processors."""


def query_dtype(step: Step) -> torch.dtype:
    """What queries are rounded to before they meet keys: the cache's format, bfloat16 for codes."""
    return DTYPES.get(step.kv_cache.layout.format, torch.bfloat16)


def cached_heads(step: Step, layer: int) -> CachedHeads:
    """A layer's keys and values as the kernels read and write them."""
    return step.once(("triton cache", layer), lambda: _views(step, step.kv_cache.heads(layer)))


def _views(step: Step, heads: DeviceHeads) -> CachedHeads:
    if heads.facts is None:
        return CachedHeads(heads.keys, heads.values)
    format = step.kv_cache.layout.format
    keys, values = (
        each.view(torch.int8) if format == "int8" else each for each in (heads.keys, heads.values)
    )
    scales, minimums = heads.facts[:, 0], heads.facts[:, 1] if format == "int4" else None
    return CachedHeads(
        keys, values, scales[:, 0], scales[:, 1],
        None if minimums is None else minimums[:, 0],
        None if minimums is None else minimums[:, 1],
    )  # fmt: skip


def slots(step: Step) -> torch.Tensor:
    """[T] int32: where each token's keys stand, block * B + place in the block."""
    size = step.kv_cache.layout.block_tokens
    return step.once("triton slots", lambda: (step.blocks * size + step.slots).int())


def attention_inputs(step: Step, op: PagedAttention, tile_tokens: int) -> AttentionInputs:
    """The step as attention with a rule reads it, in tiles of so many tokens."""
    batch = step.batch
    positions, starts, tables = step.once(
        "triton batch",
        lambda: tuple(
            step.put(each) for each in (batch.positions, batch.query_start, batch.block_tables)
        ),
    )
    tiles = step.once(
        ("triton tiles", tile_tokens), lambda: step.put(query_tiles(batch.query_start, tile_tokens))
    )
    factors = step.once(("triton factors", op.query_rule), lambda: _factors(step, op))
    chunks = 0
    if len(tiles) * op.kv_heads < ENOUGH_PROGRAMS:
        chunks = step.once(
            ("triton chunks", op.window, op.chunk, op.bidirectional), lambda: _chunks(step, op)
        )
    return AttentionInputs(positions, starts, tables, tiles, factors, chunks if chunks > 1 else 0)


def _chunks(step: Step, op: PagedAttention) -> int:
    """The most chunks of keys that a request's tokens see."""
    starts, positions = step.batch.query_start, step.batch.positions.astype(np.int64)
    some = np.flatnonzero(np.diff(starts))
    first, last = positions[starts[some]], positions[starts[some + 1] - 1]
    seen = op.first_seen(last if op.bidirectional else first)
    return max((num_chunks(*each) for each in zip(seen, last, strict=True)), default=0)


def _factors(step: Step, op: PagedAttention) -> torch.Tensor | None:
    rule = op.query_rule
    if rule is None:
        return None
    return step.put(np.array([rule.at(int(each)) for each in step.batch.positions], np.float32))
