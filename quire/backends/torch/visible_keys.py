"""Which keys the tokens of a step see, cut into chunks at fixed positions.

Requests with equally many tokens are computed together, so that decoding ones are one group however
long their contexts are.  Each request begins with the chunk that its first seen key is in; those
with most chunks stand first, and fewer and fewer take part as the walk goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from quire.backends.torch.step import Step
from quire.ops.batch import Batch

__all__ = ["CHUNK", "KeyChunk", "QueryGroup", "query_groups"]

CHUNK = 256
"""Positions of a chunk, or as many as whole blocks have."""

Int64 = npt.NDArray[np.int64]
Visible = Callable[[Int64], Int64]


class KeyChunk(NamedTuple):
    """The keys that the first R requests of a group meet next.

    requests: R.  blocks: [R, blocks of a chunk].  distance: [R, T, L], of queries and keys; below 0
    behind the query.  seen: [R, T, L].
    """

    requests: int
    blocks: torch.Tensor
    distance: torch.Tensor
    seen: torch.Tensor


@dataclass(frozen=True, slots=True)
class QueryGroup:
    """R requests with T tokens each.

    rows: [R * T] of the step's tokens.  positions: [R, T], for the host as well.  first, last:
    [R, T], what they see.  starts: [R], where each walk begins.  blocks: [R, all chunks' blocks].
    counts: how many requests take part in each chunk.
    """

    rows: torch.Tensor
    host_positions: Int64
    positions: torch.Tensor
    first: torch.Tensor
    last: torch.Tensor
    starts: torch.Tensor
    blocks: torch.Tensor
    counts: tuple[int, ...]
    chunk: int

    def chunks(self) -> list[KeyChunk]:
        """The walk, from the oldest keys on."""
        return [self._chunk(index, count) for index, count in enumerate(self.counts)]

    def _chunk(self, index: int, count: int) -> KeyChunk:
        per_chunk = self.blocks.shape[1] // len(self.counts)
        offsets = torch.arange(self.chunk, device=self.starts.device) + index * self.chunk
        keys = (self.starts[:count, None] + offsets)[:, None]  # [count, 1, L]
        first, last = self.first[:count, :, None], self.last[:count, :, None]
        blocks = self.blocks[:count, index * per_chunk : (index + 1) * per_chunk]
        distance = self.positions[:count, :, None] - keys
        return KeyChunk(count, blocks, distance, (keys >= first) & (keys <= last))


def query_groups(
    step: Step, key: object, first_seen: Visible, bidirectional: bool = False
) -> list[QueryGroup]:
    """The groups of a step under a rule of sight, made once a step for each `key`.

    first_seen: positions → the first ones that tokens there see.
    """
    make = lambda: _groups(step, first_seen, bidirectional)  # noqa: E731
    return step.once(("groups", key), make)


def _groups(step: Step, first_seen: Visible, bidirectional: bool) -> list[QueryGroup]:
    counts = np.diff(step.batch.query_start)
    return [
        _group(step, np.flatnonzero(counts == count), int(count), first_seen, bidirectional)
        for count in np.unique(counts[counts > 0])
    ]


def _group(
    step: Step, requests: Int64, tokens: int, first_seen: Visible, bidirectional: bool
) -> QueryGroup:
    batch, size = step.batch, step.kv_cache.layout.block_tokens
    chunk = max(1, CHUNK // size) * size
    lengths = _walks(batch, requests, tokens, first_seen, bidirectional, chunk)[-1]
    requests = requests[np.argsort(-lengths, kind="stable")]
    rows, positions, first, last, starts, lengths = _walks(
        batch, requests, tokens, first_seen, bidirectional, chunk
    )
    most = int(lengths.max())
    entries = (starts // size)[:, None] + np.arange(most * (chunk // size))
    # Others than those of seen keys may be anything.
    entries = np.clip(entries, (first.min(1) // size)[:, None], (last.max(1) // size)[:, None])
    blocks = batch.block_tables[requests[:, None], entries].astype(np.int64)
    active = tuple(int((lengths > index).sum()) for index in range(most))
    return QueryGroup(
        step.put(rows.reshape(-1)),
        positions,
        step.put(positions),
        step.put(first),
        step.put(last),
        step.put(starts),
        step.put(blocks),
        active,
        chunk,
    )


def _walks(
    batch: Batch, requests: Int64, tokens: int, first_seen: Visible, bidirectional: bool, chunk: int
) -> tuple[Int64, ...]:
    """Rows, positions, first and last seen keys, [R, T]; starts and numbers of chunks, [R]."""
    rows = batch.query_start[requests].astype(np.int64)[:, None] + np.arange(tokens)
    positions = batch.positions[rows].astype(np.int64)
    last = np.broadcast_to(positions[:, -1:], positions.shape) if bidirectional else positions
    first = first_seen(last)
    starts = first.min(1) // chunk * chunk
    return rows, positions, first, last, starts, (last.max(1) - starts) // chunk + 1
