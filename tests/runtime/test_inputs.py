"""From the chunks of a plan to the arrays of a step."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from quire.control.plan import Chunk
from quire.ops.batch import Batch
from quire.runtime.inputs import InputBuilder, RunningRequest, StepInputs
from quire.sampling.state import SamplingState
from quire.sampling_params import SamplingParams

FREQUENCIES = (np.ones((3, 4), np.float32),)
ARRAYS = ("token_ids", "positions", "rope_rows", "query_start", "logit_rows", "slots")


class Requests(dict[str, RunningRequest]):
    """Running requests by id, and a builder that knows them."""

    def __init__(self) -> None:
        super().__init__()
        self.builder = InputBuilder(self.__getitem__, FREQUENCIES)

    def add(self, name: str, prompt: Sequence[int], rope_row: int = 0, **params: Any) -> None:
        state = SamplingState(prompt, SamplingParams(**params), seed=1)
        self[name] = RunningRequest(state, rope_row, slot=len(self))

    def build(self, *chunks: Chunk) -> StepInputs:
        return self.builder.build(chunks)


def wanted_positions(inputs: StepInputs) -> list[int]:
    found: list[int] = inputs.batch.positions[inputs.batch.logit_rows].tolist()
    return found


# --- the batch


def test_chunks_lie_side_by_side() -> None:
    requests = Requests()
    requests.add("c", range(18))
    requests.add("b", range(9), rope_row=2)
    requests.add("a", range(5))
    inputs = requests.build(
        Chunk("a", 0, [11, 12, 13], [4], False),
        Chunk("b", 33, [21], [5, 6, 7], True),
        Chunk("c", 16, [31, 32], [8, 9], True),
    )
    batch = inputs.batch
    assert batch.token_ids.tolist() == [11, 12, 13, 21, 31, 32]
    assert batch.positions.tolist() == [0, 1, 2, 33, 16, 17]
    assert batch.query_start.tolist() == [0, 3, 4, 6]
    assert batch.rope_rows.tolist() == [0, 0, 0, 2, 0, 0]
    assert batch.slots.tolist() == [2, 1, 0]
    lengths = (1, 3, 2)
    tables = [row[:n].tolist() for row, n in zip(batch.block_tables, lengths, strict=True)]
    assert tables == [[4], [5, 6, 7], [8, 9]]
    assert batch.logit_rows.tolist() == [3, 5]
    assert inputs.shape.chunk_of_row == [1, 2]
    assert batch.request_of_token().tolist() == [0, 0, 0, 1, 2, 2]
    assert batch.frequencies is FREQUENCIES


def test_every_array_is_int32_and_contiguous() -> None:
    requests = Requests()
    requests.add("a", [1, 2])
    batch = requests.build(Chunk("a", 0, [1, 2], [3], True)).batch
    for name in (*ARRAYS, "block_tables"):
        array = getattr(batch, name)
        assert array.dtype == np.int32 and array.flags.c_contiguous, name


# --- what lasts from step to step


def random_steps(count: int) -> list[list[Chunk]]:
    """Steps that mostly go on like the one before: requests decode, come, go and are recomputed."""
    source = random.Random(7)
    lengths: dict[str, int] = {}
    tables: dict[str, list[int]] = {}
    steps = []
    for _ in range(count):
        if source.random() < 0.2 or not lengths:
            name = source.choice("abcdef")
            lengths[name], tables[name] = source.choice([0, 0, 5, 16]), []
        if source.random() < 0.1 and len(lengths) > 1:
            del lengths[source.choice(list(lengths))]
        chunks = []
        for name in lengths:
            start, num_drafts = lengths[name], source.choice([0] * 20 + [2])
            tokens = [
                source.randrange(99) for _ in range(source.choice([1] * 20 + [4]) + num_drafts)
            ]
            lengths[name] = start + len(tokens) - num_drafts
            while len(tables[name]) * 4 < start + len(tokens):
                tables[name].append(source.randrange(50))
            samples = num_drafts > 0 or source.random() < 0.98
            chunks.append(Chunk(name, start, tokens, tables[name], samples, num_drafts))
        if chunks:
            steps.append(chunks)
    return steps


def test_a_step_like_the_last_equals_one_built_anew() -> None:
    requests, num_lasting, last = Requests(), 0, None
    for number, name in enumerate("abcdef"):
        params = {"prompt_logprobs": 1} if name == "f" else {"logprobs": 1} if name == "e" else {}
        requests.add(name, range(9), rope_row=number % 3, **params)
    for chunks in random_steps(400):
        fresh = InputBuilder(requests.__getitem__, FREQUENCIES).build(chunks)
        inputs = requests.build(*chunks)
        for name in ARRAYS:
            assert (getattr(inputs.batch, name) == getattr(fresh.batch, name)).all(), name
        for place, chunk in enumerate(chunks):
            size = len(chunk.block_table)
            assert inputs.batch.block_tables[place, :size].tolist() == chunk.block_table
        assert inputs.shape.chunk_of_row == fresh.shape.chunk_of_row
        assert inputs.shape.special == fresh.shape.special
        num_lasting += inputs.batch is last
        last = inputs.batch
    assert 20 < num_lasting < 380


def test_another_request_of_the_same_name_is_not_taken_for_the_first() -> None:
    requests = Requests()
    requests.add("a", range(4))
    chunk = Chunk("a", 4, [1], [3], True)
    first: Batch = requests.build(chunk).batch
    del requests["a"]
    requests.builder.forget_shape()
    requests.add("a", range(4), rope_row=1)
    second = requests.build(chunk).batch
    assert (first.rope_rows.tolist(), second.rope_rows.tolist()) == ([0], [1])


def test_rows_that_report_on_a_prompt_end_with_it() -> None:
    """Two chunks of as many tokens, when a request is recomputed: the second is all output."""
    requests, tokens = Requests(), list(range(10))
    requests.add("a", tokens[:5], prompt_logprobs=1)
    first = requests.build(Chunk("a", 0, tokens[:4], [0], False))
    assert wanted_positions(first) == [0, 1, 2, 3]
    second = requests.build(Chunk("a", 4, tokens[4:8], [0], False))
    assert wanted_positions(second) == []


# --- which rows are wanted


PROMPT = [10, 11, 12, 13, 14]


def reported(start: int, count: int, samples: bool, output: int = 0) -> list[int]:
    """The positions whose logits are wanted of a request that wants them for its prompt."""
    requests = Requests()
    requests.add("other", PROMPT)
    requests.add("a", PROMPT, prompt_logprobs=2, logprobs=3)
    tokens = (PROMPT + [50] * output)[start : start + count]
    inputs = requests.build(
        Chunk("other", 0, PROMPT, [0], False), Chunk("a", start, tokens, [0], samples)
    )
    assert set(inputs.shape.chunk_of_row) <= {1}
    return wanted_positions(inputs)


def test_each_token_of_a_prompt_has_a_row() -> None:
    assert reported(0, 5, True) == [0, 1, 2, 3, 4]


def test_chunks_of_a_prompt_share_the_rows() -> None:
    assert reported(0, 2, False) == [0, 1]
    assert reported(2, 2, False) == [2, 3]
    assert reported(4, 1, True) == [4]


def test_output_positions_have_no_rows_but_the_last() -> None:
    assert reported(5, 1, True, output=1) == [5]


def test_a_recomputed_request_reports_on_its_prompt_again() -> None:
    """After a preemption prompt and output are computed in one chunk."""
    assert reported(3, 5, True, output=3) == [3, 7]


def test_a_request_without_them_has_one_row_or_none() -> None:
    requests = Requests()
    requests.add("a", PROMPT)
    assert wanted_positions(requests.build(Chunk("a", 0, PROMPT, [0], True))) == [4]
    assert wanted_positions(requests.build(Chunk("a", 0, PROMPT, [0], False))) == []


def test_guesses_have_rows_and_so_has_the_token_before_them() -> None:
    requests = Requests()
    requests.add("a", PROMPT)
    inputs = requests.build(Chunk("a", 3, [13, 14, 7, 8], [0], True, num_drafts=2))
    assert wanted_positions(inputs) == [4, 5, 6]
    assert inputs.shape.special == {0}


def test_lasting_inputs_are_not_those_of_the_next_step() -> None:
    requests = Requests()
    requests.add("a", range(9), logprobs=1)
    first = requests.build(Chunk("a", 9, [3], [0], True))
    kept = first.lasting()
    second = requests.build(Chunk("a", 10, [4], [0], True))
    assert second.batch is first.batch
    assert (kept.batch.positions.tolist(), kept.batch.token_ids.tolist()) == ([9], [3])
