"""The numpy sampler against answers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from quire.sampling import reference
from quire.sampling.state import SampleRow, SamplingState
from quire.sampling_params import SamplingParams


def row(prompt=(), output=(), seed=1, target=-1, **params):
    own = {name: params.pop(name) for name in ("forbidden", "bad_words") if name in params}
    made = SamplingState(prompt, SamplingParams(**params), seed, **own)
    return SampleRow(made, np.array(output, np.int32), target)


def adjusted(logits, made):
    return reference.adjust_logits(np.array(logits, np.float32), made).tolist()


@pytest.mark.parametrize(
    "counter, key, expected",
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(counter, key, expected):
    assert reference.philox4x32(counter, key) == expected


def test_uniform_uses_all_of_seed_and_index():
    seen = {reference.uniform(seed, i) for seed in (0, 1, 2**32, 2**63) for i in (0, 1, 2**40)}
    assert len(seen) == 12
    assert all(0 <= u < 1 and u * 2**24 == int(u * 2**24) for u in seen)


def test_penalties():
    made = row([0, 1, 1], [2, 2, 0], repetition_penalty=2.0)
    assert adjusted([4, -4, 1, 3], made) == [2, -8, 0.5, 3]
    made = row([0, 1], [2, 2, 0], frequency_penalty=0.5, presence_penalty=0.25)
    assert adjusted([1, 1, 1, 1], made) == [0.25, 1, -0.25, 1]


def test_masks_and_bias():
    low = -math.inf
    assert adjusted([1, 2, 3], row(allowed_token_ids=[2, 0, 9])) == [1, low, 3]
    assert adjusted([1, 2, 3], row(logit_bias={1: 2.5, 7: 1.0})) == [1, 4.5, 3]
    for output, allowed in (([0], low), ([0, 0], 2)):
        waiting = row(forbidden=[1, 8], min_tokens=2, output=output)
        assert adjusted([1, 2, 3], waiting) == [1, allowed, 3]
    masked = row()
    masked.state.mask = np.array([0b101], np.int32)
    assert adjusted([1, 2, 3], masked) == [1, low, 3]


@pytest.mark.parametrize(
    "output, banned", [([], {3}), ([1], {2, 3}), ([0, 1], {2, 3, 0}), ([1, 0], {3})]
)
def test_bad_words_end_only_after_their_beginning(output, banned):
    made = row(output=output, bad_words=[[1, 2], [3], [0, 1, 0]])
    logits = adjusted([0.0] * 4, made)
    assert {i for i, value in enumerate(logits) if value == -math.inf} == banned


def kept(probabilities, min_p=0.0, top_k=0, top_p=1.0):
    weights = np.array(probabilities, np.float32)
    return np.flatnonzero(reference.truncate(weights, weights, min_p, top_k, top_p)).tolist()


def test_filters():
    p = [0.1, 1.0, 0.5, 0.5, 0.4]
    assert kept(p) == [0, 1, 2, 3, 4]
    assert kept(p, min_p=0.5) == [1, 2, 3]
    assert kept(p, top_k=2) == [1, 2]
    assert kept(p, top_p=0.375) == [1]
    assert kept(p, top_p=0.41) == [1, 2]
    assert kept(p, top_p=1e-9) == [1]
    assert kept(p, top_k=2, top_p=0.7) == [1, 2]
    assert kept(p, top_k=2, top_p=0.6) == [1]  # of 1.5, not of 2.5
    assert kept(p, min_p=0.45, top_p=0.6) == [1, 2]  # of 2.0, not of 2.5


def test_draw_takes_the_first_id_past_the_share():
    weights = np.array([0.0, 1.0, 0.0, 3.0])
    assert [reference.draw(weights, u) for u in (0.0, 0.2499, 0.25, 0.999, 1.0)] == [1, 1, 3, 3, 3]


def test_log_probabilities_ignore_what_the_row_asked_for():
    logits = np.array([[0.0, 1.0, 2.0, 2.0]], np.float32)
    made = row(temperature=0.0, logit_bias={0: 50.0}, logprobs=2)
    out = reference.sample_rows(logits, [made])
    expected = logits[0] - math.log(sum(math.exp(x) for x in logits[0]))
    assert out.tokens == [0] and list(out.logprobs[0]) == [0, 2, 3]
    assert [entry.rank for entry in out.logprobs[0].values()] == [4, 1, 2]
    for token, entry in out.logprobs[0].items():
        assert entry.logprob == pytest.approx(expected[token], rel=1e-6)


def test_target_reports_and_draws_nothing():
    logits = np.array([[0.0, 5.0]], np.float32)
    out = reference.sample_rows(logits, [row(target=0, prompt_logprobs=0)])
    assert (out.tokens, list(out.logprobs[0])) == ([0], [0])


def test_rows_without_log_probabilities_have_none():
    out = reference.sample_rows(np.zeros((2, 4), np.float32), [row(), row(logprobs=0)])
    assert list(out.logprobs) == [1]


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_nothing_to_choose_from(bad):
    out = reference.sample_rows(np.full((1, 5), bad, np.float32), [row(logprobs=1)])
    assert (out.tokens, out.logprobs) == ([-1], {})
