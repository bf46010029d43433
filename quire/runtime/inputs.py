"""Turns a Plan into the arrays of one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from quire.control.plan import Chunk, Plan
from quire.ops.batch import Batch
from quire.sampling.state import SampleRow, SamplingState

__all__ = ["BlockTableRow", "RunningRequest", "StepInputs", "build_inputs"]


class BlockTableRow:
    """An int32 copy of one request's block table that follows it by appending."""

    def __init__(self) -> None:
        self._source: Sequence[int] | None = None
        self._ids = np.zeros(8, np.int32)
        self._filled = 0

    def follow(self, table: Sequence[int]) -> npt.NDArray[np.int32]:
        """The ids of `table`; only what was appended since the last call is copied."""
        if table is not self._source:
            self._source, self._filled = table, 0
        if len(table) > len(self._ids):
            grown = np.zeros(max(len(table), 2 * len(self._ids)), np.int32)
            grown[: self._filled] = self._ids[: self._filled]
            self._ids = grown
        if self._filled < len(table):
            self._ids[self._filled : len(table)] = table[self._filled :]
            self._filled = len(table)
        return self._ids[: self._filled]


@dataclass(slots=True)
class RunningRequest:
    """What the runner keeps of a request from its first step to its last."""

    state: SamplingState
    rope_row: int
    blocks: BlockTableRow = field(default_factory=BlockTableRow)
    wants_prompt_logprobs: bool = False


@dataclass(frozen=True, slots=True)
class StepInputs:
    """A batch, what each of its logit rows is for, and whose row it is.

    owners: per logit row, the request id and the position of the row's token.
    """

    batch: Batch
    rows: tuple[SampleRow, ...]
    owners: tuple[tuple[str, int], ...]


def build_inputs(
    plan: Plan,
    running: Mapping[str, RunningRequest],
    frequencies: tuple[npt.NDArray[np.float32], ...],
) -> StepInputs:
    """Lay the chunks side by side and list the rows whose logits are wanted."""
    # Lists first: most chunks have one token, and numpy takes as long for one as for a hundred.
    token_ids: list[int] = []
    positions: list[int] = []
    rope_rows: list[int] = []
    query_start, logit_rows = [0], []
    rows: list[SampleRow] = []
    owners: list[tuple[str, int]] = []
    for chunk in plan.chunks:
        request, first, count = running[chunk.request_id], len(token_ids), len(chunk.tokens)
        token_ids += chunk.tokens
        positions += range(chunk.start, chunk.start + count)
        rope_rows += [request.rope_row] * count
        query_start.append(first + count)
        for position, row in _wanted_rows(chunk, request):
            logit_rows.append(first + position - chunk.start)
            rows.append(row)
            owners.append((chunk.request_id, position))
    batch = Batch(
        np.array(token_ids, np.int32),
        np.array(positions, np.int32),
        np.array(rope_rows, np.int32),
        np.array(query_start, np.int32),
        _block_tables(plan, running),
        np.array(logit_rows, np.int32),
        frequencies,
    )
    return StepInputs(batch, tuple(rows), tuple(owners))


def _block_tables(plan: Plan, running: Mapping[str, RunningRequest]) -> npt.NDArray[np.int32]:
    """Each chunk's block table, with zeros behind the shorter ones."""
    longest = max((len(chunk.block_table) for chunk in plan.chunks), default=0)
    tables = np.zeros((len(plan.chunks), longest), np.int32)
    for row, chunk in zip(tables, plan.chunks, strict=True):
        row[: len(chunk.block_table)] = running[chunk.request_id].blocks.follow(chunk.block_table)
    return tables


def _wanted_rows(chunk: Chunk, request: RunningRequest) -> list[tuple[int, SampleRow]]:
    """The positions of a chunk whose logits are wanted: prompt rows, then the samples.

    A chunk that samples has one row for its last known token and one for each guess behind it.
    """
    state, wanted = request.state, []
    if request.wants_prompt_logprobs:
        num_logprobs = state.params.prompt_logprobs
        assert num_logprobs is not None
        end = min(chunk.start + len(chunk.tokens), len(state.prompt) - 1)
        for position in range(chunk.start, end):
            target = int(state.prompt[position + 1])
            wanted.append((position, SampleRow(state, num_logprobs, target)))
    if chunk.samples:
        num_logprobs = -1 if state.params.logprobs is None else state.params.logprobs
        num_known = len(chunk.tokens) - chunk.num_drafts
        guesses = chunk.tokens[num_known:] if chunk.num_drafts else ()
        if guesses:
            state.guess(guesses)
        for place, guess in enumerate((*guesses, -1)):
            row = SampleRow(state, num_logprobs, num_guesses=place, guess=guess)
            wanted.append((chunk.start + num_known - 1 + place, row))
    return wanted
