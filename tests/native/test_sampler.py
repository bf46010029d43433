"""The C++ sampler against the numpy one, its distribution, and its corner cases."""

from __future__ import annotations

import math
from itertools import chain
from typing import NamedTuple

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

POOL = library.ThreadPool(2)


class Sampled(NamedTuple):
    token: int
    logprobs: dict | None


def batch_of(rows):
    """A step in which each row belongs to the last token of a request, slot i for row i."""
    tokens, positions = [], []
    for row in rows:
        num_prompt = len(row.state.prompt)
        if row.target >= 0:
            assert row.state.prompt[1] == row.target
            tokens.append([row.state.prompt[0]])
            positions.append([0])
        else:
            tokens.append(list(row.output) or [0])
            start = num_prompt if len(row.output) else num_prompt - 1
            positions.append(range(start, start + len(tokens[-1])))
    ends = np.cumsum([len(each) for each in tokens])
    return Batch(
        np.int32(list(chain(*tokens))),
        np.int32(list(chain(*positions))),
        np.zeros(ends[-1], np.int32),
        np.int32([0, *ends]),
        np.zeros((len(rows), 1), np.int32),
        np.int32(ends - 1),
        (),
        np.arange(len(rows), dtype=np.int32),
    )


def sample_batch(rows):
    table = SampleTable()
    for slot, row in enumerate(rows):
        table.admit(slot, row.state)
    return table.sample(batch_of(rows))


def sample(logits, rows, isa=None, pool=POOL):
    """What the C++ sampler makes of a copy of the logits."""
    return run_batch(logits, sample_batch(rows), isa, pool)


def run_batch(logits, batch, isa=None, pool=POOL, stride_pad=3):
    """Run the C++ sampler on a copy of the logits, in rows of a wider buffer."""
    S, V = logits.shape
    buffer = np.full((S, V + stride_pad), np.inf, np.float32)
    buffer[:, :V] = logits
    isa = library.best_isa() if isa is None else isa
    library.check(
        library.load().quire_sample(
            pool.handle,
            isa,
            buffer.ctypes.data,
            V + stride_pad,
            V,
            S,
            batch.records.ctypes.data,
            batch.results.ctypes.data,
        )
    )
    assert (buffer[:, V:] == np.inf).all()
    return listed(batch.sampled())


def sample_slowly(logits, rows):
    """The same by the reference."""
    return listed(reference.sample_rows(logits, rows))


def listed(sampled):
    return [Sampled(token, sampled.logprobs.get(i)) for i, token in enumerate(sampled.tokens)]


def row(prompt=(), output=(), seed=1, mask=None, forbidden=(), bad_words=(), target=-1, **params):
    made = SamplingState(prompt, SamplingParams(**params), seed, forbidden, bad_words)
    made.mask = mask
    return SampleRow(made, np.array(output, np.int32), target)


def acceptable(logits, made):
    """The tokens that the reference draws when every border moves by a rounding error."""
    params = made.state.params
    adjusted = reference.adjust_logits(logits, made)
    weights = reference.softmax_weights(adjusted, params.temperature)
    u, tokens = reference.uniform(made.state.seed, len(made.output)), set()
    for a in (-1e-5, 0, 1e-5):
        for b in (-1e-5, 0, 1e-5):
            for d in (-3e-6, 0, 3e-6):
                top_p = params.top_p + b if params.top_p < 1 else 1.0
                kept = reference.truncate(
                    adjusted, weights, params.min_p * (1 + a), params.top_k, top_p
                )
                u_near = min(max(u + d, 0.0), 1.0)
                tokens.add(reference.draw(np.where(kept, weights, 0), u_near))
    return tokens


@st.composite
def logits_rows(draw):
    """Logits of many shapes: peaked, flat, full of ties, with forbidden and missing numbers."""
    size = draw(st.sampled_from([1, 2, 7, 8, 31, 33, 100, 1000, 1025, 3000]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits = rng.standard_normal(size) * draw(st.sampled_from([1e-3, 1.0, 4.0, 30.0]))
    if draw(st.booleans()):
        logits = np.round(logits)
    if draw(st.booleans()):
        logits[rng.random(size) < 0.3] = -np.inf
    if draw(st.integers(0, 9)) == 0:
        logits[rng.random(size) < 0.1] = np.nan
    return logits.astype(np.float32)


@st.composite
def rows(draw, size):
    token = st.integers(0, size + 3)
    tokens = st.lists(token, max_size=12)
    words = st.lists(st.lists(st.integers(0, min(size, 4)), min_size=1, max_size=3), max_size=4)
    mask = None
    if draw(st.integers(0, 3)) == 0:
        bits = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 2**32, -(-size // 32))
        mask = bits.astype(np.uint32).view(np.int32)
    return row(
        prompt=draw(tokens),
        output=draw(st.lists(st.integers(0, min(size, 4)), max_size=12)),
        seed=draw(st.integers(0, 2**64 - 1)),
        mask=mask,
        forbidden=draw(tokens),
        bad_words=draw(words),
        min_tokens=draw(st.sampled_from([0, 5])),
        temperature=draw(st.sampled_from([0.0, 1e-4, 0.5, 1.0, 3.0])),
        top_k=draw(st.sampled_from([0, 0, -1, 1, 5, 50, 1024, 1025, 2000])),
        top_p=draw(st.sampled_from([1.0, 1.0, 0.999999, 0.95, 0.5, 1e-6])),
        min_p=draw(st.sampled_from([0.0, 0.0, 1e-9, 0.05, 0.5, 1.0])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.3, 0.7])),
        presence_penalty=draw(st.sampled_from([0.0, 0.5, -2.0])),
        frequency_penalty=draw(st.sampled_from([0.0, 0.3])),
        logit_bias=draw(st.dictionaries(token, st.floats(-100, 100, width=32), max_size=4)),
        allowed_token_ids=draw(st.one_of(st.none(), st.lists(token, min_size=1, max_size=9))),
        logprobs=draw(st.sampled_from([None, 0, 1, 5, 256])),
    )


@st.composite
def problems(draw):
    logits = draw(logits_rows())
    return logits, draw(rows(len(logits)))


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


def expect_same_logprobs(mine, expected):
    if expected is None:
        assert mine is None
        return
    finite = {t: e for t, e in expected.items() if math.isfinite(e.logprob)}
    for token, entry in finite.items():
        assert mine[token].rank == entry.rank
        assert mine[token].logprob == pytest.approx(entry.logprob, rel=2e-6, abs=2e-6)
    assert {t for t, e in mine.items() if math.isfinite(e.logprob)} == set(finite)


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
    for row in rows:
        table.admit(0, row.state)
        tokens += [one.token for one in run_batch(logits, table.sample(batch))]
    assert tokens == [1, 2]
