"""The C++ sampler against the numpy one, its distribution, and its corner cases."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from quire.backends.native import abi as c
from quire.backends.native import library
from quire.backends.native.sample_rows import SampleTable
from quire.ops.batch import Batch
from quire.sampling import reference
from quire.sampling.state import SampleRow, SamplingState
from quire.sampling_params import SamplingParams
from tests.native.sampled_rows import (
    POOL,
    acceptable,
    batch_of,
    expect_same_logprobs,
    problems,
    row,
    run_batch,
    sample,
    sample_batch,
    sample_slowly,
)


@settings(max_examples=400, deadline=None)
@given(problem=problems(), isa=st.sampled_from(library.available_isas()))
def test_equals_the_reference(problem, isa):
    logits, made = problem
    (mine,) = sample(logits[None], [made], isa)
    (expected,) = sample_slowly(logits[None], [made])
    if mine.token != expected.token:
        assert expected.token >= 0 and made.state.params.temperature > 0
        assert mine.token in acceptable(logits, made)
        return
    expect_same_logprobs(mine.logprobs, expected.logprobs)


@settings(max_examples=100, deadline=None)
@given(problem=problems(), data=st.data())
def test_every_token_of_a_chunk_may_have_a_row(problem, data):
    """A row among others of its request, as behind guesses, equals to the bit that row alone."""
    logits, made = problem
    state, output = made.state, made.output.tolist()
    guesses = data.draw(st.lists(st.integers(0, min(len(logits), 4)), min_size=1, max_size=20))
    tokens = [*output, *guesses]
    first = len(state.prompt) - 1
    table = SampleTable()
    table.admit(3, state)
    count = len(tokens) + 1
    batch = Batch(
        np.int32([0, *tokens]),
        np.arange(first, first + count, dtype=np.int32),
        np.zeros(count, np.int32),
        np.int32([0, count]),
        np.zeros((1, 1), np.int32),
        np.arange(count, dtype=np.int32),
        (),
        np.int32([3]),
    )
    together = run_batch(np.stack([logits] * count), table.sample(batch))
    for index in range(count):
        alone = SampleRow(state, np.int32(tokens[:index]))
        assert repr(together[index]) == repr(sample(logits[None], [alone])[0])


def draws(logits, made, count):
    """How often each token comes up over `count` outputs of one request."""
    batch = sample_batch([made])
    records = np.repeat(batch.records, count)
    records["output_index"] = np.arange(count)
    results = np.zeros(count, c.SAMPLE_RESULT)
    rows = np.repeat(logits[None], count, 0)
    library.check(
        library.load().quire_sample(
            POOL.handle,
            library.best_isa(),
            rows.ctypes.data,
            len(logits),
            len(logits),
            count,
            records.ctypes.data,
            results.ctypes.data,
        )
    )
    return np.bincount(results["token"], minlength=len(logits))


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 1.0},
        {"temperature": 0.6},
        {"temperature": 2.0, "top_k": 7},
        {"temperature": 1.0, "top_p": 0.8},
        {"temperature": 1.5, "min_p": 0.1},
        {"temperature": 1.2, "top_k": 12, "top_p": 0.9, "min_p": 0.02},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [20, 40])
def test_draws_follow_the_distribution(params, size, rng):
    logits = rng.standard_normal(size).astype(np.float32)
    made = row(seed=12345, **params)
    asked = made.state.params
    weights = reference.softmax_weights(logits, asked.temperature)
    kept = reference.truncate(logits, weights, asked.min_p, asked.top_k, asked.top_p)
    shares = np.where(kept, weights, 0) / weights[kept].sum()
    count = 40_000
    seen = draws(logits, made, count)
    assert (seen[~kept] == 0).all()
    chi_square = ((seen - count * shares)[kept] ** 2 / (count * shares[kept])).sum()
    freedom = kept.sum() - 1
    assert abs(chi_square - freedom) < 4 * math.sqrt(2 * freedom) + 3


def test_different_seeds_and_outputs_draw_differently():
    logits = np.zeros((64, 1000), np.float32)
    rows = [row(seed=seed, output=[0] * n) for seed in range(8) for n in range(8)]
    tokens = [each.token for each in sample(logits, rows)]
    assert len(set(tokens)) > 55
    assert tokens == [each.token for each in sample(logits, rows)]


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), index=st.integers(0, 2**63 - 1))
def test_uniform_equals_the_reference(seed, index):
    assert library.load().quire_uniform(seed, index) == reference.uniform(seed, index)


def test_uniform_gives_the_published_answer():
    assert library.load().quire_uniform(0, 0) == (0x6627E8D5 >> 8) / 2**24


def test_a_row_does_not_depend_on_its_neighbours_or_the_threads(pools, isa, rng):
    logits = rng.standard_normal((30, 5000)).astype(np.float32) * 3
    rows = [
        row(
            range(i),
            range(i),
            i,
            temperature=0.8,
            top_k=i % 3 * 600,
            top_p=0.9,
            repetition_penalty=1.1,
            logprobs=[None, 0, 1, 2][i % 4],
        )
        for i in range(30)
    ]
    together = sample(logits, rows, isa, pools[3])
    alone = [sample(logits[i : i + 1], [each], isa, pools[1])[0] for i, each in enumerate(rows)]
    assert together == alone


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
@pytest.mark.parametrize("params", [{"temperature": 0.0}, {}, {"top_k": 3}, {"top_p": 0.5}])
def test_nothing_to_choose_from(isa, bad, params):
    logits = np.full((1, 100), bad, np.float32)
    (out,) = sample(logits, [row(**params, logprobs=2)], isa)
    assert out.token == -1


@pytest.mark.parametrize("params", [{"temperature": 0.0}, {}, {"top_k": 3}, {"top_p": 0.5}])
def test_one_number_among_missing_ones_is_chosen(isa, params):
    logits = np.full((1, 100), np.nan, np.float32)
    logits[0, 37] = -1e30
    (out,) = sample(logits, [row(**params)], isa)
    assert out.token == 37


def test_infinite_logits_win(isa):
    logits = np.zeros((1, 50), np.float32)
    logits[0, [7, 9]] = np.inf
    for params in ({"temperature": 0.0}, {}, {"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.1}):
        (out,) = sample(logits, [row(**params)], isa)
        assert out.token in ((7,) if params.get("temperature") == 0.0 else (7, 9))


def test_greedy_takes_the_lowest_id_among_equals(isa):
    logits = np.ones((1, 200), np.float32)
    logits[0, [50, 51, 199]] = 2
    assert sample(logits, [row(temperature=0.0)], isa)[0].token == 50


@pytest.mark.parametrize(
    "params, token",
    [
        ({}, 0),
        ({"frequency_penalty": 0.3}, 1),  # 1.0 - 2 * 0.3 < 0.5
        ({"frequency_penalty": 0.2}, 0),
        ({"presence_penalty": 0.4}, 0),
        ({"presence_penalty": 0.6}, 1),
        ({"repetition_penalty": 1.9}, 0),  # once, however often the token occurred
        ({"repetition_penalty": 2.1}, 1),
        ({"logit_bias": {2: 0.7}}, 2),
    ],
    ids=str,
)
def test_penalties_and_bias_by_hand(isa, params, token):
    logits = np.array([[1.0, 0.5, 0.35]], np.float32)
    made = row([0], [0, 0], temperature=0.0, **params)
    assert sample(logits, [made], isa)[0].token == token


@pytest.mark.parametrize("target", [0, 3, 99, 100, 2**31 - 1])
def test_target_reports_and_changes_nothing(isa, rng, target):
    logits = rng.standard_normal((1, 100)).astype(np.float32)
    made = row([1, target], target=target, repetition_penalty=2.0, prompt_logprobs=3)
    (mine,), (expected,) = sample(logits, [made], isa), sample_slowly(logits, [made])
    assert mine.token == expected.token == (target if target < 100 else -1)
    expect_same_logprobs(mine.logprobs, expected.logprobs)


@pytest.mark.parametrize(
    "top_k, top_p", [(0, 1.0), (0, 0.95), (0, 0.9999999), (2000, 1.0), (5000, 0.7)]
)
@pytest.mark.parametrize("scale", [0.01, 2.0, 12.0])
def test_large_vocabularies(isa, rng, top_k, top_p, scale):
    logits = (rng.standard_normal((1, 150_000)) * scale).astype(np.float32)
    for seed in range(3):
        made = row(seed=seed, top_k=top_k, top_p=top_p)
        (mine,), (expected,) = sample(logits, [made], isa), sample_slowly(logits, [made])
        assert mine == expected or mine.token in acceptable(logits[0], made)


def test_a_slot_that_was_admitted_again_samples_for_its_new_request():
    table, logits = SampleTable(), np.float32([[0, 3, 2]])
    rows = [
        SampleRow(SamplingState([5], SamplingParams(temperature=0.0, logit_bias=bias), 1), ())
        for bias in ({}, {2: 9.0})
    ]
    batch, tokens = batch_of(rows[:1]), []
    for each in rows:
        table.admit(0, each.state)
        tokens += [one.token for one in run_batch(logits, table.sample(batch))]
    assert tokens == [1, 2]
