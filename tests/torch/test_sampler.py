"""The sampler in torch draws what the reference draws, for all rows at once."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from quire.backends.torch.devices import Device, find_device
from quire.backends.torch.host_copies import HostCopies
from quire.backends.torch.sampling.draw import at_share
from quire.backends.torch.sampling.randoms import UNITS, random_units
from quire.backends.torch.sampling.rows import draw_rows, sample_rows
from quire.control.plan import UNKNOWN_TOKEN
from quire.sampling import reference
from tests.native.sampled_rows import acceptable, expect_same_logprobs, problems, row, rows

pytestmark = pytest.mark.oracle

CPU = find_device("cpu")


def sample(logits: np.ndarray, made: list[Any], device: Any = CPU) -> Any:
    """Also checks that the logits stay as they are."""
    tensor = torch.from_numpy(logits.copy())
    with torch.inference_mode():
        sampled = sample_rows(tensor, made, device)
    np.testing.assert_array_equal(tensor.numpy(), logits)
    return sampled


@settings(max_examples=120, deadline=None)
@given(problem=problems(), data=st.data())
def test_equals_the_reference(problem: Any, data: Any) -> None:
    """Five rows of one batch, each with parameters of its own, over the same logits."""
    logits, first = problem
    made = [first, *(data.draw(rows(len(logits))) for _ in range(4))]
    together = np.stack([np.roll(logits, shift) for shift in range(len(made))])
    found, expected = sample(together, made), reference.sample_rows(together, made)
    for place, (mine, its) in enumerate(zip(found.tokens, expected.tokens, strict=True)):
        if mine != its:
            assert its >= 0 and made[place].state.params.temperature > 0
            assert mine in acceptable(together[place], made[place])
        else:
            theirs = expected.logprobs.get(place)
            expect_same_logprobs(found.logprobs.get(place), theirs)


def test_seeds_and_outputs_decide_what_is_drawn() -> None:
    """Exactly the reference's tokens, where no border is near."""
    random = np.random.default_rng(7)
    logits = (random.standard_normal((64, 1000)) * 2).astype(np.float32)
    made = [
        row(output=[0] * n, seed=seed, temperature=0.9, top_p=0.95, top_k=50 * (seed % 3))
        for seed in range(8)
        for n in range(8)
    ]
    tokens = sample(logits, made).tokens
    assert tokens == reference.sample_rows(logits, made).tokens
    assert len(set(tokens)) > 40


def test_random_numbers_of_many_rows_are_those_of_each() -> None:
    seeds, indices = [0, 1, 2**32 - 1, 2**64 - 1, 77], [0, 2**33 + 5, 1, 2**20, 2**32]
    alone = zip(seeds, indices, strict=True)
    expected = [int(reference.uniform(*each) * 2**UNITS) for each in alone]
    assert random_units(seeds, indices).tolist() == expected


def test_prompts_are_reported_on_beside_what_is_drawn() -> None:
    logits = np.random.default_rng(3).standard_normal((4, 50)).astype(np.float32)
    made = [
        row(prompt=[1, 7], target=7, prompt_logprobs=3),
        row(temperature=0.0),
        row(prompt=[1, 60], target=60, prompt_logprobs=0),
        row(seed=5, logprobs=2),
    ]
    found, expected = sample(logits, made), reference.sample_rows(logits, made)
    assert found.tokens == expected.tokens == [7, found.tokens[1], -1, found.tokens[3]]
    assert list(found.logprobs) == list(expected.logprobs) == [0, 3]
    for place in (0, 3):
        assert list(found.logprobs[place]) == list(expected.logprobs[place])
        expect_same_logprobs(found.logprobs[place], expected.logprobs[place])


def test_the_share_where_one_token_ends_is_the_next_ones() -> None:
    weights, u = torch.tensor([[0.0, 1, 0, 1], [1, 1, 2, 0]]), torch.tensor([[0.0], [0.5]]).double()
    assert at_share(weights, u).tolist() == [1, 2]
    assert reference.draw(weights[0].numpy(), 0.0) == 1
    assert reference.draw(weights[1].numpy(), 0.5) == 2


def test_nothing_to_choose_from() -> None:
    logits = np.full((3, 9), -np.inf, np.float32)
    logits[1] = np.nan
    logits[2, 4] = -3e38
    made = [row(), row(temperature=0.0), row()]
    assert sample(logits, made).tokens == [-1, -1, 4]


def test_a_device_without_float64_draws_the_same() -> None:
    class Small(Device):
        has_float64 = False
        triton_architecture = None

    logits = np.random.default_rng(3).standard_normal((4, 300)).astype(np.float32)
    made = [row(seed=seed, top_p=0.9, logprobs=1) for seed in range(4)]
    assert sample(logits, made, Small(CPU.platform)) == sample(logits, made)


def test_the_comparison_can_fail() -> None:
    logits = np.random.default_rng(3).standard_normal((1, 300)).astype(np.float32)
    made = row(seed=1, top_p=0.9)
    others = [row(seed=seed, top_p=0.9) for seed in range(2, 6)]
    assert any(sample(logits, [each]) != sample(logits, [made]) for each in others)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), size=st.integers(2, 40))
def test_a_last_token_that_only_the_device_knows_counts_like_any_other(
    data: Any, size: int
) -> None:
    """Penalties see it, whether it was said before or not; so do seeds."""
    known = [
        row(
            prompt=data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=4)),
            output=data.draw(st.lists(st.integers(0, size - 1), max_size=5)),
            seed=data.draw(st.integers(0, 9)),
            temperature=data.draw(st.sampled_from([0.0, 1.0])),
            repetition_penalty=data.draw(st.sampled_from([1.0, 1.5, 0.7])),
            presence_penalty=data.draw(st.sampled_from([0.0, 0.8])),
            frequency_penalty=data.draw(st.sampled_from([0.0, 0.5, -0.5])),
        )
        for _ in range(data.draw(st.integers(1, 5)))
    ]
    unknown, before = list(known), torch.zeros(len(known), dtype=torch.int64)
    for place, each in enumerate(known):
        if len(each.output) and data.draw(st.booleans()):
            before[place] = int(each.output[-1])
            output = np.append(each.output[:-1], np.int32(UNKNOWN_TOKEN))
            unknown[place] = each._replace(output=output)
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    logits = torch.from_numpy(random.standard_normal((len(known), size)).astype(np.float32))
    drawn = draw_rows(logits, unknown, before, CPU).on_host(HostCopies(CPU))
    assert drawn == sample_rows(logits, known, CPU)
