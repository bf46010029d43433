"""Turns the chunks of a Plan into the arrays of one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import numpy.typing as npt

from quire.control.plan import NO_STATE, Chunk
from quire.ops.batch import Batch
from quire.runtime.block_tables import BlockTables
from quire.runtime.image_inputs import Encode, with_images
from quire.sampling.state import SamplingState
from quire.vision.prompt_images import PromptImages

__all__ = ["InputBuilder", "RunningRequest", "StepInputs", "StepShape"]

Int32 = npt.NDArray[np.int32]


@dataclass(slots=True)
class RunningRequest:
    """What the runner keeps of a request until it is over.

    slot: its place in the arrays that last from step to step; -1 until it first runs.
    images: those in its prompt, None where there are none.  is_over: it was finished.
    """

    state: SamplingState
    rope_row: int
    slot: int = -1
    images: PromptImages | None = None
    is_over: bool = False

    @property
    def is_plain(self) -> bool:
        """True where a step yields one token and nothing else has to be noted of it."""
        params = self.state.params
        return (params.logprobs, params.prompt_logprobs, self.state.grammar) == (None, None, None)


class StepShape:
    """What the steps have in common in which the same requests compute as many tokens each.

    key: the ids, numbers of tokens, whether they sample, and numbers of guesses of the chunks.
    special: places of the chunks with guesses, and of those whose requests are not plain.
    images: those of requests that have some, by the places of their chunks.
    [T]: chunk_of_token, offset (a token's place in its chunk), rope_rows; token_ids and positions,
    which every step fills anew.  [S]: logit_rows, chunk_of_row.  [R]: states, filled anew where
    the model has recurrent layers.
    """

    def __init__(
        self,
        key: tuple[Sequence[str], Sequence[int], Sequence[bool], Sequence[int]],
        chunks: Sequence[Chunk],
        requests: Sequence[RunningRequest],
    ) -> None:
        _, counts, samples, num_drafts = key
        self.key = key
        self.requests = requests
        self.slot_list = [request.slot for request in requests]
        self.slots = np.array(self.slot_list, np.int32)
        self.images = [(place, each.images) for place, each in enumerate(requests) if each.images]
        self.query_start = np.cumsum([0, *counts], dtype=np.int32)
        self.chunk_of_token = np.repeat(np.arange(len(counts)), counts)
        num_tokens = len(self.chunk_of_token)
        self.offset = np.arange(num_tokens) - self.query_start[self.chunk_of_token]
        rope_rows = np.array([request.rope_row for request in requests], np.int32)
        self.rope_rows = rope_rows[self.chunk_of_token]
        self.token_ids = np.zeros(num_tokens, np.int32)
        self.positions = np.zeros(num_tokens, np.int32)
        self.states = np.zeros((len(counts), 4), np.int32)
        special = [place for place, each in enumerate(requests) if not each.is_plain]
        self.special = {*special, *(place for place, count in enumerate(num_drafts) if count)}
        wanted = np.zeros(num_tokens, np.bool_)
        wanted[self.query_start[1:][np.array(samples)] - 1] = True
        for place in self.special:
            first, end = self.query_start[place : place + 2]
            wanted[first:end] |= _wanted(chunks[place], requests[place].state)
        self.logit_rows = np.flatnonzero(wanted).astype(np.int32)
        self.chunk_of_row: list[int] = self.chunk_of_token[wanted].tolist()
        self.batch: Batch | None = None

    def new_batch(
        self, block_tables: Int32, frequencies: tuple[npt.NDArray[np.float32], ...]
    ) -> Batch:
        """A batch of the arrays of this shape."""
        return Batch(
            self.token_ids,
            self.positions,
            self.rope_rows,
            self.query_start,
            block_tables,
            self.logit_rows,
            frequencies,
            self.slots,
            self.states,
        )

    @property
    def lasts(self) -> bool:
        """False where the rows depend on how much of a prompt is still to be reported on."""
        states = (self.requests[place].state for place in self.special)
        return all(state.params.prompt_logprobs is None for state in states)


@dataclass(frozen=True, slots=True)
class StepInputs:
    """A batch and the shape that it was made with."""

    batch: Batch
    shape: StepShape

    def lasting(self) -> StepInputs:
        """The same with token ids and positions that the next step does not fill anew."""
        batch, shape = self.batch, self.shape
        ids, positions = batch.token_ids.copy(), batch.positions.copy()
        return StepInputs(replace(batch, token_ids=ids, positions=positions), shape)


class InputBuilder:
    """Lays chunks side by side; what the last step had in common with this one is kept.

    running: finds a request, which has a slot, by its id.  encode: what makes rows of images, for
    a model that sees.
    """

    def __init__(
        self,
        running: Callable[[str], RunningRequest],
        frequencies: tuple[npt.NDArray[np.float32], ...],
        encode: Encode | None = None,
    ) -> None:
        self.tables = BlockTables()
        self._encode = encode
        self._running = running
        self._frequencies = frequencies
        self._shape: StepShape | None = None

    def forget_shape(self) -> None:
        """A request is over; its id may belong to another one in the next step."""
        self._shape = None

    def build(self, chunks: Sequence[Chunk]) -> StepInputs:
        """The arrays of a step; there must be a chunk."""
        columns = tuple(zip(*chunks, strict=True))
        ids, starts, tokens, block_lists, samples, num_drafts = columns[:6]
        key = (ids, tuple(map(len, tokens)), samples, num_drafts)
        shape = self._shape
        if shape is None or key != shape.key:
            shape = StepShape(key, chunks, [self._running(each) for each in ids])
            self._shape = shape if shape.lasts else None
        shape.token_ids[:] = list(chain.from_iterable(tokens))
        if len(shape.positions) == len(starts):
            shape.positions[:] = starts
        else:
            shape.positions[:] = np.array(starts)[shape.chunk_of_token] + shape.offset
        if chunks[0].state is not NO_STATE:  # then no chunk's is
            shape.states[:] = columns[-1]
        block_tables = self.tables.gather(shape.slot_list, block_lists)
        if shape.batch is None or shape.batch.block_tables is not block_tables:
            shape.batch = shape.new_batch(block_tables, self._frequencies)
        if not shape.images:
            return StepInputs(shape.batch, shape)
        assert self._encode is not None, "only a model that sees is given images"
        return StepInputs(with_images(shape.batch, chunks, shape.images, self._encode), shape)


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
