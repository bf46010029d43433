"""What attention and the writing of keys read of a step, put on the device once for all layers.

Where each request has one token, that is the step's tensors and arrays of shapes that hang on the
number of tokens alone, so that a captured step can be given others.
"""

from __future__ import annotations

import numpy as np
import torch

from quire.backends.torch.arrays import DTYPES
from quire.backends.torch.graph_memory import PARTIAL_BYTES
from quire.backends.torch.kv_cache import CachedHeads as DeviceHeads
from quire.backends.torch.step import Step
from quire.backends.torch.triton.attention import (
    CHUNK,
    AttentionInputs,
    CachedHeads,
    query_tiles,
)
from quire.ops.attention import PagedAttention
from quire.ops.batch import Batch

__all__ = ["attention_inputs", "cached_heads", "cells", "query_dtype"]

ENOUGH_PROGRAMS = 256
"""With fewer, programs share the keys of a tile: devices have about a hundred processors."""
SHARED_PROGRAMS = 512
"""About so many then: chunks are of one size, and two programs for a processor hide what waits."""


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


def cells(step: Step) -> torch.Tensor:
    """[T] int32: where each token's keys stand, block * B + offset in the block; nobody's at -1."""
    size = step.kv_cache.layout.block_tokens
    return step.once("triton cells", lambda: _of_somebody(step, step.blocks * size + step.offsets))


def _of_somebody(step: Step, numbers: torch.Tensor) -> torch.Tensor:
    """Numbers [T] as int32, -1 of tokens that pad a step."""
    spare = step.kv_cache.spare
    return (numbers if spare < 0 else torch.where(step.blocks == spare, -1, numbers)).int()


def attention_inputs(
    step: Step, op: PagedAttention, tile_tokens: int, key_chunk: int = CHUNK
) -> AttentionInputs:
    """The step as attention with a rule reads it, in tiles of so many tokens at most.

    op.head_dim: of values.  key_chunk: positions of a chunk of keys.
    """
    size = step.kv_cache.layout.block_tokens

    def tables(batch: Batch) -> np.ndarray:
        """As wide as the longest request of this batch needs them."""
        return np.ascontiguousarray(batch.block_tables[:, : batch.positions.max() // size + 1])

    starts, tiles = _single_tokens(step) if step.is_decoding else _tiles(step, tile_tokens)
    tokens = 1 if step.is_decoding else tile_tokens
    chunks = _chunks_of_tile(step.end, op, tokens, key_chunk)
    programs = max(1, len(tiles) * op.kv_heads)
    partial_bytes = chunks * len(step.token_ids) * op.heads * (op.head_dim + 2) * 4
    is_shared = programs < ENOUGH_PROGRAMS and partial_bytes <= PARTIAL_BYTES
    return AttentionInputs(
        step.once("triton positions", lambda: _of_somebody(step, step.positions)),
        starts,
        step.array("triton tables", tables, -(-step.end // size)),
        tiles,
        _factors(step, op),
        chunks if is_shared and chunks > 1 and not op.bidirectional else 0,
        -(-SHARED_PROGRAMS // programs),
    )


def _single_tokens(step: Step) -> tuple[torch.Tensor, torch.Tensor]:
    """query_start and tiles where each request has one token."""

    def make() -> tuple[torch.Tensor, torch.Tensor]:
        starts = torch.arange(
            len(step.token_ids) + 1, dtype=torch.int32, device=step.token_ids.device
        )
        return starts, torch.stack([starts[:-1], starts[:-1]], dim=1)

    return step.once("triton single tokens", make)


def _tiles(step: Step, tile_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of any requests, which only the host knows."""
    batch = step.batch
    starts = step.once("triton starts", lambda: step.put(batch.query_start))
    make = lambda: step.put(query_tiles(batch.query_start, tile_tokens))  # noqa: E731
    return starts, step.once(("triton tiles", tile_tokens), make)


def _chunks_of_tile(end: int, op: PagedAttention, tokens: int, size: int) -> int:
    """The most chunks of keys that tokens side by side see, all before a position."""
    seen = min(op.window or end, op.chunk or end) + tokens - 1
    return min(-(-end // size), (seen + size - 2) // size + 1)


def _factors(step: Step, op: PagedAttention) -> torch.Tensor | None:
    rule = op.query_rule
    if rule is None:
        return None

    def make(batch: Batch) -> np.ndarray:
        return np.array([rule.at(int(each)) for each in batch.positions], np.float32)

    return step.array(("triton factors", rule), make)
