"""What a request yields depends on nothing but itself: bit by bit, on every instruction set.

Tokens, log-probabilities, ranks and alternatives of each request are compared with `==` to what
the same request yields alone, in one chunk, on one thread, in an engine with room for everything.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from quire.sampling_params import SamplingParams
from tests.engine.driving import (
    Circumstances,
    Job,
    Run,
    random_jobs,
)
from tests.engine.invariant_models import (
    INTEGER_MODELS,
    KV_FORMAT,
    MODELS,
    WIDE_MODELS,
    bench,
    jobs_and_answers,
)
from tests.engine.random_worlds import random_world
from tests.models.computing import ISAS, need, why_missing

each_isa = pytest.mark.parametrize("isa", ISAS)
each_model = pytest.mark.parametrize("name", MODELS)
each_model_and_isa = pytest.mark.parametrize(
    ("name", "isa"), list(itertools.product((*MODELS, *INTEGER_MODELS), ISAS))
)


def assert_invariant(name: str, isa: str, world: Circumstances, count: int = 24) -> Run:
    """All jobs together in these circumstances yield what each yields alone."""
    need(isa)
    jobs, expected = jobs_and_answers(name, isa, count)
    run = bench(name, isa).run(jobs, world)
    for job, found, alone in zip(jobs, run.answers, expected, strict=True):
        assert found == alone, f"{job} in {world}"
    return run


# --- circumstances, one at a time


@each_model_and_isa
def test_in_a_batch_with_others(name: str, isa: str) -> None:
    run = assert_invariant(name, isa, Circumstances(token_budget=512))
    assert run.num_preemptions == run.num_hit_tokens == 0


@pytest.mark.parametrize("budget", [1, 3, 16, 17, 50])
@each_model_and_isa
def test_in_chunks_of_any_size(name: str, isa: str, budget: int) -> None:
    assert_invariant(name, isa, Circumstances(token_budget=budget, logit_rows=min(budget, 4)), 8)


@each_model_and_isa
def test_with_hits_in_the_prefix_cache(name: str, isa: str) -> None:
    run = assert_invariant(name, isa, Circumstances(prefix_caching=True, max_num_seqs=3))
    assert run.num_hit_tokens > 30


@each_model_and_isa
def test_after_preemption(name: str, isa: str) -> None:
    world = Circumstances(num_blocks=6, token_budget=40, prefix_caching=True)
    assert assert_invariant(name, isa, world).num_preemptions > 3


@each_model_and_isa
def test_with_more_threads(name: str, isa: str) -> None:
    assert_invariant(name, isa, Circumstances(threads=2, token_budget=200))
    assert_invariant(name, isa, Circumstances(threads=3, token_budget=30), 8)


@pytest.mark.parametrize("most", [1, 2, 5])
@each_isa
def test_with_fewer_requests_at_once(isa: str, most: int) -> None:
    assert_invariant("llama", isa, Circumstances(max_num_seqs=most), 10)


@pytest.mark.parametrize("logit_rows", [1, 2, 64])
@each_isa
def test_with_logits_in_pieces_of_any_size(isa: str, logit_rows: int) -> None:
    assert_invariant("llama", isa, Circumstances(logit_rows=logit_rows, token_budget=512), 10)


@each_isa
def test_with_whole_prompts_only(isa: str) -> None:
    assert_invariant("llama", isa, Circumstances(chunked_prefill=False), 10)


@pytest.mark.parametrize(
    "world",
    [
        Circumstances(token_budget=512, threads=2),
        Circumstances(token_budget=11, max_num_seqs=5),  # the kernels for few rows only
        Circumstances(token_budget=100, num_blocks=25, prefix_caching=True),
    ],
    ids=["batch", "few rows", "crowded"],
)
@pytest.mark.parametrize("name", WIDE_MODELS)
@each_isa
def test_wide_models_and_long_prompts(name: str, isa: str, world: Circumstances) -> None:
    assert_invariant(name, isa, world, 2 if isa == "native-portable" else 7)


# --- all of them at once


@each_model_and_isa
def test_in_random_worlds(name: str, isa: str) -> None:
    runs = [assert_invariant(name, isa, random_world(seed)) for seed in range(6)]
    assert sum(run.num_preemptions for run in runs) > 4  # a window leaves more room
    assert sum(run.num_hit_tokens for run in runs) > 100


@each_isa
def test_with_other_requests_beside_it(isa: str) -> None:
    """The same five requests among two different crowds."""
    need(isa)
    jobs, expected = jobs_and_answers("llama", isa, 5)
    for seed in (1, 2):
        crowd = random_jobs(seed, count=12)
        answers = bench("llama", isa).run(crowd + jobs, Circumstances(num_blocks=40)).answers
        assert answers[len(crowd) :] == expected


# --- seeds


def sampled(seed: int, **fields: Any) -> Job:
    params = SamplingParams(**{"temperature": 1.0, "max_tokens": 24, **fields})
    return Job(tuple(range(20, 30)), params, seed)


@each_isa
def test_a_seed_decides_what_is_drawn(isa: str) -> None:
    need(isa)
    each = bench("llama", isa)
    first, again, other = (each.alone(sampled(seed)).tokens for seed in (1, 1, 2))
    assert first == again != other


@each_isa
def test_greedy_needs_no_seed(isa: str) -> None:
    need(isa)
    each = bench("llama", isa)
    answers = [each.alone(sampled(seed, temperature=0.0)).tokens for seed in (1, 2)]
    assert answers[0] == answers[1]


@each_isa
def test_what_is_asked_about_tokens_does_not_change_them(isa: str) -> None:
    need(isa)
    plain = bench("llama", isa).alone(sampled(3))
    told = bench("llama", isa).alone(sampled(3, logprobs=5, prompt_logprobs=3))
    assert told.tokens == plain.tokens
    assert told.prompt_logprobs is not None and len(told.logprobs) == len(told.tokens)


def test_the_comparison_can_fail() -> None:
    """Another seed, another prompt, or a sampler that is not told the same are all seen."""
    need("native-portable")
    each = bench("llama", "native-portable")
    job = sampled(3, logprobs=2)
    alone = each.alone(job)
    changed = [
        replace(job, seed=4),
        replace(job, prompt=job.prompt[:-1]),
        sampled(3, logprobs=1),
        sampled(3, logprobs=2, top_k=2),
    ]
    assert all(each.alone(other) != alone for other in changed)


# --- the instruction sets


@each_model
def test_all_instruction_sets_and_the_reference_agree_closely(name: str) -> None:
    """Bits may differ between them, log-probabilities by rounding only."""
    job = Job(tuple(range(40)), SamplingParams(max_tokens=1, prompt_logprobs=0, logprobs=0), 1)
    backends = [isa for isa in (*ISAS, "reference") if not why_missing(isa)]
    answers = [bench(name, backend).alone(job) for backend in backends]
    found = [
        [next(iter(entry.values())).logprob for entry in answer.prompt_logprobs or () if entry]
        for answer in answers
    ]
    *natives, reference = found
    assert natives and len(reference) == 39
    # Rounding may bring a number to the next one of the cache's format.
    atol = {"float32": 1e-4, "int8": 1e-2, "fp8": 3e-2, "int4": 3e-2}.get(
        KV_FORMAT.get(name, "float32"), 2e-3
    )
    if "bfloat16" in name:  # some instruction sets round what such weights are multiplied with
        atol = 0.08
    for native in natives:
        np.testing.assert_allclose(native, reference, atol=atol)
