"""From a plan to the arrays of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from quire.control.plan import Chunk, Plan
from quire.runtime.block_tables import BlockTables
from quire.runtime.inputs import RunningRequest, StepInputs, build_inputs
from quire.sampling.state import SamplingState
from quire.sampling_params import SamplingParams

FREQUENCIES = (np.ones((3, 4), np.float32),)
TABLES = BlockTables()


def running(prompt: Sequence[int] = (), rope_row: int = 0, **params: Any) -> RunningRequest:
    state = SamplingState(prompt, SamplingParams(**params), seed=1)
    return RunningRequest(state, rope_row, TABLES.take())


def chunk(name: str, start: int, tokens: Sequence[int], table: list[int], samples: bool) -> Chunk:
    return Chunk(name, start, tokens, table, samples)


def inputs_of(*pairs: tuple[Chunk, RunningRequest]) -> StepInputs:
    plan = Plan(1, tuple(each for each, _ in pairs))
    requests = {each.request_id: request for each, request in pairs}
    return build_inputs(plan, requests, TABLES, FREQUENCIES)


# --- the batch


def test_chunks_lie_side_by_side() -> None:
    inputs = inputs_of(
        (chunk("a", 0, [11, 12, 13], [4], False), running(range(5))),
        (chunk("b", 33, [21], [5, 6, 7], True), running(range(9), rope_row=2)),
        (chunk("c", 16, [31, 32], [8, 9], True), running(range(18))),
    )
    batch = inputs.batch
    assert batch.token_ids.tolist() == [11, 12, 13, 21, 31, 32]
    assert batch.positions.tolist() == [0, 1, 2, 33, 16, 17]
    assert batch.query_start.tolist() == [0, 3, 4, 6]
    assert batch.rope_rows.tolist() == [0, 0, 0, 2, 0, 0]
    assert [row[:n].tolist() for row, n in zip(batch.block_tables, (1, 3, 2), strict=True)] == [
        [4],
        [5, 6, 7],
        [8, 9],
    ]
    assert batch.logit_rows.tolist() == [3, 5]
    assert inputs.owners == [("b", 33), ("c", 17)]
    assert [row.target for row in inputs.rows] == [-1, -1]
    assert batch.request_of_token().tolist() == [0, 0, 0, 1, 2, 2]
    assert batch.frequencies is FREQUENCIES


def test_every_array_is_int32_and_contiguous() -> None:
    batch = inputs_of((chunk("a", 0, [1, 2], [3], True), running([1, 2]))).batch
    names = ("token_ids", "positions", "rope_rows", "query_start", "block_tables", "logit_rows")
    for name in names:
        array = getattr(batch, name)
        assert array.dtype == np.int32 and array.flags.c_contiguous, name


def test_an_empty_plan_has_no_tokens() -> None:
    inputs = inputs_of()
    assert (inputs.batch.num_tokens, inputs.batch.num_requests, inputs.rows) == (0, 0, [])


@pytest.mark.parametrize(("asked", "given"), [(None, -1), (0, 0), (5, 5)])
def test_a_sample_asks_for_its_log_probabilities(asked: int | None, given: int) -> None:
    inputs = inputs_of((chunk("a", 0, [1, 2], [3], True), running([1, 2], logprobs=asked)))
    assert [(row.num_logprobs, row.target) for row in inputs.rows] == [(given, -1)]


# --- rows for the log-probabilities of a prompt


PROMPT = [10, 11, 12, 13, 14]


def wanted(start: int, count: int, samples: bool, output: int = 0) -> list[tuple[int, int, int]]:
    """Position, target and number of alternatives of each row of one chunk."""
    request = running(PROMPT, prompt_logprobs=2, logprobs=3)
    tokens = (PROMPT + [50] * output)[start : start + count]
    inputs = inputs_of((chunk("a", start, tokens, [0], samples), request))
    positions = [position for _, position in inputs.owners]
    assert (inputs.batch.logit_rows + start).tolist() == positions
    return [
        (position, row.target, row.num_logprobs)
        for position, row in zip(positions, inputs.rows, strict=True)
    ]


def test_each_prompt_row_reports_on_the_token_after_it() -> None:
    assert wanted(0, 5, True) == [(0, 11, 2), (1, 12, 2), (2, 13, 2), (3, 14, 2), (4, -1, 3)]


def test_chunks_of_a_prompt_share_the_rows() -> None:
    assert wanted(0, 2, False) == [(0, 11, 2), (1, 12, 2)]
    assert wanted(2, 2, False) == [(2, 13, 2), (3, 14, 2)]
    assert wanted(4, 1, True) == [(4, -1, 3)]


def test_output_positions_have_no_prompt_rows() -> None:
    assert wanted(5, 1, True, output=1) == [(5, -1, 3)]


def test_a_recomputed_request_reports_on_its_prompt_again() -> None:
    """After a preemption prompt and output are computed in one chunk."""
    assert wanted(3, 5, True, output=3) == [(3, 14, 2), (7, -1, 3)]


def test_a_request_without_them_has_one_row() -> None:
    inputs = inputs_of((chunk("a", 0, PROMPT, [0], True), running(PROMPT)))
    assert len(inputs.rows) == 1
    assert not inputs_of((chunk("a", 0, PROMPT, [0], False), running(PROMPT))).rows
