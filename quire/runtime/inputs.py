"""Turns the chunks of a Plan into the arrays of one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from quire.control.plan import Chunk
from quire.ops.batch import Batch
from quire.runtime.block_tables import BlockTables
from quire.sampling.state import SamplingState

__all__ = ["Members", "RunningRequest", "StepInputs", "build_inputs"]

Int32 = npt.NDArray[np.int32]


@dataclass(slots=True)
class RunningRequest:
    """What the runner keeps of a request until it is over.

    slot: its place in the arrays that last from step to step; -1 until it first runs.
    """

    state: SamplingState
    rope_row: int
    slot: int = -1

    @property
    def is_plain(self) -> bool:
        """True where a step yields one token and nothing else has to be noted of it."""
        params = self.state.params
        return (params.logprobs, params.prompt_logprobs, self.state.grammar) == (None, None, None)


class Members:
    """The requests of a step, in the order of its chunks; most steps have those of the last one.

    special: places of the requests that are not plain.
    """

    def __init__(self, ids: tuple[str, ...], requests: Sequence[RunningRequest]) -> None:
        self.ids = ids
        self.requests = requests
        self.slots = np.array([request.slot for request in requests], np.int32)
        self.rope_rows = np.array([request.rope_row for request in requests], np.int32)
        self.special = [place for place, each in enumerate(requests) if not each.is_plain]


@dataclass(frozen=True, slots=True)
class StepInputs:
    """A batch, and for each of its logit rows the place of the chunk that it belongs to.

    special: places of chunks with guesses, or of requests that are not plain.
    """

    batch: Batch
    chunk_of_row: list[int]
    special: set[int]


def build_inputs(
    chunks: Sequence[Chunk],
    members: Members,
    tables: BlockTables,
    frequencies: tuple[npt.NDArray[np.float32], ...],
) -> StepInputs:
    """Lay the chunks side by side and find the rows whose logits are wanted."""
    _, starts, tokens, block_tables, samples, num_drafts, *_ = zip(*chunks, strict=True)
    counts = np.array(list(map(len, tokens)), np.int32)
    query_start = np.zeros(len(chunks) + 1, np.int32)
    np.cumsum(counts, out=query_start[1:])
    token_ids = np.array(list(chain.from_iterable(tokens)), np.int32)
    shift = np.array(starts, np.int32) - query_start[:-1]  # from a place in the step to a position
    special = set(members.special)
    if any(num_drafts):
        special.update(place for place, count in enumerate(num_drafts) if count)
    wanted = np.zeros(len(token_ids), np.bool_)
    wanted[query_start[1:][np.array(samples)] - 1] = True
    for place in special:
        first, end = query_start[place : place + 2].tolist()
        wanted[first:end] |= _wanted(chunks[place], members.requests[place].state)
    logit_rows = np.flatnonzero(wanted).astype(np.int32)
    batch = Batch(
        token_ids,
        np.arange(len(token_ids), dtype=np.int32) + np.repeat(shift, counts),
        np.repeat(members.rope_rows, counts),
        query_start,
        tables.gather(members.slots, block_tables),
        logit_rows,
        frequencies,
        members.slots,
    )
    chunk_of_row = np.searchsorted(query_start, logit_rows, side="right") - 1
    return StepInputs(batch, chunk_of_row.tolist(), special)


def _wanted(chunk: Chunk, state: SamplingState) -> npt.NDArray[np.bool_]:
    """Which tokens of a chunk want logits beside the last: guesses, those before them, a prompt's.

    The last token of a prompt is followed by none of it, so there is nothing to report on it.
    """
    count = len(chunk.tokens)
    wanted = np.zeros(count, np.bool_)
    if state.params.prompt_logprobs is not None:
        wanted[: max(0, len(state.prompt) - 1 - chunk.start)] = True
    if chunk.num_drafts:
        wanted[count - chunk.num_drafts - 1 :] = True
    return wanted
