"""Rows of logits for the samplers, random ones too, and what either sampler makes of them."""

from __future__ import annotations

import math
from itertools import chain
from typing import NamedTuple

import hypothesis.strategies as st
import numpy as np
import pytest

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


def expect_same_logprobs(mine, expected):
    if expected is None:
        assert mine is None
        return
    finite = {t: e for t, e in expected.items() if math.isfinite(e.logprob)}
    for token, entry in finite.items():
        assert mine[token].rank == entry.rank
        assert mine[token].logprob == pytest.approx(entry.logprob, rel=2e-6, abs=2e-6)
    assert {t for t, e in mine.items() if math.isfinite(e.logprob)} == set(finite)
