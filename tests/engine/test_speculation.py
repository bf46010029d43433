"""Speculation changes how many steps a request takes, and nothing else: bit by bit.

Tokens, log-probabilities, ranks, alternatives and ends of requests whose guesses are always right,
always wrong, or anything between are compared with `==` to those of plain decoding.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from quire.sampling_params import SamplingParams
from quire.speculative.methods import METHODS
from quire.speculative.speculator import Speculator
from tests.engine.driving import Circumstances, Job, Run, random_jobs
from tests.engine.forced_guesses import Forced, forced
from tests.engine.invariant_models import MODELS, bench, jobs_and_answers
from tests.models.computing import ISAS, need

# States of recurrent layers cannot be taken back: such a model refuses guesses.
GUESSING = [name for name in MODELS if name != "recurrent"]


def assert_same(name: str, isa: str, world: Circumstances, spoilt: float, count: int = 24) -> Run:
    """All jobs together, with guesses, yield what each yields alone without."""
    need(isa)
    each = bench(name, isa)
    jobs, expected = jobs_and_answers(name, isa, count)
    run = each.run(jobs, replace(world, drafter=forced(expected, spoilt, each)))
    for job, found, alone in zip(jobs, run.answers, expected, strict=True):
        assert found == alone, f"{job} in {world}, spoilt {spoilt}"
    return run


@pytest.mark.parametrize("spoilt", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", GUESSING)
@pytest.mark.parametrize("isa", ISAS)
def test_in_a_batch(name: str, isa: str, spoilt: float) -> None:
    run = assert_same(name, isa, Circumstances(token_budget=300), spoilt)
    assert run.num_drafted > 300
    accepted = run.num_accepted / run.num_drafted
    assert {0.0: accepted > 0.6, 0.3: 0.2 < accepted < 0.6, 1.0: accepted < 0.05}[spoilt]


@pytest.mark.parametrize(
    "world",
    [
        Circumstances(token_budget=7, logit_rows=3),
        Circumstances(token_budget=40, num_blocks=6, prefix_caching=True),
        Circumstances(prefix_caching=True, max_num_seqs=3, logit_rows=1),
        Circumstances(chunked_prefill=False, threads=2),
        Circumstances(num_blocks=9, prefix_caching=True, lookahead_tokens=4),
    ],
    ids=["chunks", "preempted", "cached", "whole prompts", "crowded"],
)
@pytest.mark.parametrize("name", GUESSING)
@pytest.mark.parametrize("isa", ISAS)
def test_in_any_circumstances(name: str, isa: str, world: Circumstances) -> None:
    run = assert_same(name, isa, world, 0.2, 16)
    assert 0 < run.num_accepted < run.num_drafted
    if world.num_blocks == 6 and name != "window":  # that one gives blocks back in time
        assert run.num_preemptions > 1
    if world.max_num_seqs == 3:
        assert run.num_hit_tokens > 20


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("isa", ISAS)
def test_with_the_real_proposers(isa: str, method: str) -> None:
    """Greedy requests of a small random model soon run in circles, which both notice."""
    need(isa)
    jobs = [
        replace(job, params=replace(job.params, temperature=0.0, max_tokens=48, min_tokens=0))
        for job in random_jobs(11, 8)
    ]
    each = bench("llama", isa)
    expected = each.run(jobs, Circumstances()).answers
    found = each.run(jobs, Circumstances(drafter=lambda: Speculator(METHODS[method](), 6)))
    assert found.answers == expected
    assert found.num_accepted > 10


def test_right_guesses_save_steps() -> None:
    """Four guesses a step: forty tokens take the first step and eight more."""
    need("native-portable")
    each = bench("llama", "native-portable")
    job = Job(tuple(range(9)), SamplingParams(temperature=1.0, max_tokens=41), 5)
    answers = [each.alone(job)]

    class Four(Forced):
        def propose(self, requests: Any, num_tokens: int, room: int) -> list[list[int]]:
            (request,) = requests
            done = request.num_output
            return [self.answers[0].tokens[done : done + 4] if done else []]

    run = each.run([job], Circumstances(drafter=lambda: Four(answers, 0.0, 128)))
    assert (run.answers, run.num_steps) == (answers, 9)


@pytest.mark.parametrize("isa", ISAS)
def test_a_request_fails_behind_a_right_guess_as_it_does_without(isa: str) -> None:
    """Of two tokens one is forbidden, the other no more than twice: the third has no choice."""
    need(isa)
    params = SamplingParams(allowed_token_ids=(5, 6), logprobs=1)
    job = Job(tuple(range(9)), params, 1, bad_words=((5,), (6, 6, 6)))
    each = bench("llama", isa)
    alone = each.alone(job)
    assert (alone.tokens, alone.finish_reason) == ([6, 6], "error")

    class Sixes(Forced):
        def propose(self, requests: Any, num_tokens: int, room: int) -> list[list[int]]:
            return [[6] * 5 for _ in requests]

    run = each.run([job], Circumstances(drafter=lambda: Sixes([], 0.0, 128)))
    assert (run.answers, run.num_steps) == ([alone], 2)


def test_the_reference_backend_takes_guesses_as_well() -> None:
    """Its sums round differently for other numbers of rows, so only tokens are compared."""
    jobs = random_jobs(5, 4, longest=12, most_tokens=10)
    each = bench("llama", "reference")
    expected = [each.alone(job) for job in jobs]
    found = each.run(jobs, Circumstances(drafter=forced(expected, 0.2, each)))
    assert [answer.tokens for answer in found.answers] == [answer.tokens for answer in expected]
    assert 0 < found.num_accepted < found.num_drafted
