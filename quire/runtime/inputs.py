"""Turns a Plan into the arrays of one step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import numpy.typing as npt

from quire.control.plan import Chunk, Plan
from quire.ops.batch import Batch
from quire.runtime.block_tables import BlockTables, TableRow
from quire.sampling.state import SampleRow, SamplingState

__all__ = ["RunningRequest", "StepInputs", "build_inputs"]


@dataclass(slots=True)
class RunningRequest:
    """What the runner keeps of a request until it is over.

    sample: what the row of its last known token is for, the same in every step without guesses.
    """

    state: SamplingState
    rope_row: int
    blocks: TableRow
    sample: SampleRow = field(init=False)
    wants_prompt_logprobs: bool = field(init=False)

    def __post_init__(self) -> None:
        params = self.state.params
        self.sample = SampleRow(self.state, -1 if params.logprobs is None else params.logprobs)
        self.wants_prompt_logprobs = params.prompt_logprobs is not None


@dataclass(frozen=True, slots=True)
class StepInputs:
    """A batch, what each of its logit rows is for, and whose row it is.

    owners: per logit row, the request id and the position of the row's token.
    """

    batch: Batch
    rows: list[SampleRow]
    owners: list[tuple[str, int]]


def build_inputs(
    plan: Plan,
    running: Mapping[str, RunningRequest],
    tables: BlockTables,
    frequencies: tuple[npt.NDArray[np.float32], ...],
) -> StepInputs:
    """Lay the chunks side by side and list the rows whose logits are wanted."""
    chunks = plan.chunks
    requests = [running[chunk.request_id] for chunk in chunks]
    counts = [len(chunk.tokens) for chunk in chunks]
    query_start = np.zeros(len(chunks) + 1, np.int32)
    np.cumsum(counts, out=query_start[1:])
    starts = np.array([chunk.start for chunk in chunks], np.int32)
    token_ids = list(chain.from_iterable([chunk.tokens for chunk in chunks]))
    shift = np.repeat(starts - query_start[:-1], counts)  # from place in the step to position
    logit_rows: list[int] = []
    rows: list[SampleRow] = []
    owners: list[tuple[str, int]] = []
    for chunk, request, first in zip(chunks, requests, query_start.tolist(), strict=False):
        for position, row in _wanted_rows(chunk, request):
            logit_rows.append(first + position - chunk.start)
            rows.append(row)
            owners.append((chunk.request_id, position))
    batch = Batch(
        np.array(token_ids, np.int32),
        np.arange(len(token_ids), dtype=np.int32) + shift,
        np.repeat(np.array([request.rope_row for request in requests], np.int32), counts),
        query_start,
        tables.gather(
            [request.blocks for request in requests], [chunk.block_table for chunk in chunks]
        ),
        np.array(logit_rows, np.int32),
        frequencies,
    )
    return StepInputs(batch, rows, owners)


def _wanted_rows(chunk: Chunk, request: RunningRequest) -> Sequence[tuple[int, SampleRow]]:
    """The positions of a chunk whose logits are wanted: prompt rows, then the samples."""
    if chunk.num_drafts or request.wants_prompt_logprobs:
        return [*_prompt_rows(chunk, request), *_sample_rows(chunk, request)]
    if chunk.samples:
        return ((chunk.start + len(chunk.tokens) - 1, request.sample),)
    return ()


def _prompt_rows(chunk: Chunk, request: RunningRequest) -> Iterator[tuple[int, SampleRow]]:
    """A row for each position that reports on the prompt's next token."""
    num_logprobs = request.state.params.prompt_logprobs
    if num_logprobs is None:
        return
    prompt = request.state.prompt
    for position in range(chunk.start, min(chunk.start + len(chunk.tokens), len(prompt) - 1)):
        yield position, SampleRow(request.state, num_logprobs, int(prompt[position + 1]))


def _sample_rows(chunk: Chunk, request: RunningRequest) -> Iterator[tuple[int, SampleRow]]:
    """A row for the last known token, and one for each guess behind it."""
    if not chunk.samples:
        return
    num_known = len(chunk.tokens) - chunk.num_drafts
    guesses = chunk.tokens[num_known:]
    if guesses:
        request.state.guess(guesses)
    for place, guess in enumerate((*guesses, -1)):
        row = request.sample._replace(num_guesses=place, guess=guess)
        yield chunk.start + num_known - 1 + place, row
