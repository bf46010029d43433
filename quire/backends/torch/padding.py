"""Brings steps to one of a few sizes, by requests that nobody made."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace

import numpy as np

from quire.ops.batch import Batch

__all__ = ["SIZES", "idle", "one_by_one", "padded", "size_for"]

SIZES = (
    *(1, 2, 4),
    *range(8, 64, 8),
    *range(64, 128, 16),
    *range(128, 256, 32),
    *range(256, 513, 64),
)
"""Tokens of a step; at most a fifth of one above 40 tokens is padding.

Above the last one, a device needs longer to compute a step than the host to give it the work.
"""

NO_STATE = (-1, -1, 0, -1)
"""Of a request that is nobody's: it begins without a record, and leaves none."""


def size_for(num_tokens: int) -> int | None:
    """The size for so many tokens; None where they are too many."""
    place = bisect_left(SIZES, num_tokens)
    return SIZES[place] if place < len(SIZES) else None


def padded(batch: Batch, num_tokens: int, scratch_block: int) -> Batch:
    """The batch with so many tokens; those added are requests of a token each.

    They stand at the beginning of a block that is nobody's, have slot -1 and no state, and no
    logits of them are wanted.
    """
    missing = num_tokens - batch.num_tokens
    if missing == 0:
        return batch
    zeros = np.zeros(missing, np.int32)
    starts = batch.query_start[-1] + np.arange(1, missing + 1, dtype=np.int32)
    tables = np.full((missing, batch.block_tables.shape[1]), scratch_block, np.int32)
    return replace(
        batch,
        token_ids=np.concatenate([batch.token_ids, zeros]),
        positions=np.concatenate([batch.positions, zeros]),
        rope_rows=np.concatenate([batch.rope_rows, zeros + batch.rope_rows[0]]),
        query_start=np.concatenate([batch.query_start, starts]),
        block_tables=np.concatenate([batch.block_tables, tables]),
        slots=np.concatenate([batch.slots, zeros - 1]),
        states=np.concatenate([batch.states, np.array([NO_STATE] * missing, np.int32)]),
    )


def one_by_one(batch: Batch) -> Batch:
    """The batch with a request for each token; its requests have no state.

    What a token sees is the same: keys of those before it are written before any is read.
    """
    if batch.is_decoding:
        return batch
    requests = batch.request_of_token()
    return replace(
        batch,
        query_start=np.arange(batch.num_tokens + 1, dtype=np.int32),
        block_tables=batch.block_tables[requests],
        slots=batch.slots[requests] if len(batch.slots) else batch.slots,
        states=np.array([NO_STATE] * batch.num_tokens, np.int32),
    )


def idle(batch: Batch, scratch_block: int) -> Batch:
    """A batch of as many tokens, all of them nobody's."""
    none = replace(
        batch,
        token_ids=batch.token_ids[:0],
        positions=batch.positions[:0],
        query_start=batch.query_start[:1],
        block_tables=batch.block_tables[:0],
        slots=batch.slots[:0],
        states=batch.states[:0],
        logit_rows=batch.logit_rows[:0],
    )
    found = padded(none, batch.num_tokens, scratch_block)
    return replace(found, rope_rows=np.full_like(batch.rope_rows, batch.rope_rows[0]))
