"""How many tokens are guessed for whom."""

from __future__ import annotations

import pytest

from quire.control.request import Request
from quire.control.stop import StopRules
from quire.speculative.acceptance import START, Acceptance
from quire.speculative.methods import METHODS, load_speculator
from quire.speculative.speculator import Speculator
from quire.speculative.step_cost import (
    FLAT_TOKENS,
    FORGET_STEPS,
    MOST_TOKENS,
    REDRAW_STEPS,
    StepCost,
)


class Sure:
    """A method that always has a guess; counts what is asked of it."""

    def __init__(self) -> None:
        self.num_asked = 0
        self.finished: list[str] = []

    def start(self, request: Request) -> Sure:
        return self

    def propose(self, most: int) -> list[int]:
        self.num_asked += 1
        return list(range(most))

    def finish(self, request: Request) -> None:
        self.finished.append(request.id)


def requests(count: int) -> list[Request]:
    return [Request(f"r{i}", [1, 2, 3], StopRules(100)) for i in range(count)]


def measured(seconds: dict[int, float]) -> StepCost:
    cost = StepCost()
    for num_tokens, each in seconds.items():
        cost.observe(num_tokens, each)
    return cost


def linear(free: int) -> StepCost:
    """Steps of up to `free` tokens cost the same, larger ones are bound by arithmetic."""
    return measured({n: max(n, free) / free for n in range(1, MOST_TOKENS + 1)})


def lengths(speculator: Speculator, count: int, room: int = 1000) -> list[int]:
    return [len(draft) for draft in speculator.propose(requests(count), count, room)]


# --- acceptance


def test_acceptance_follows_what_was_right() -> None:
    each = Acceptance()
    for _ in range(40):
        each.note(4, 4)
    assert each.chance > 0.99
    for _ in range(10):
        each.note(4, 0)
    assert each.chance < 0.25


def test_acceptance_learns_the_chance_of_each_guess() -> None:
    """Drafts of four, right with 0.8 each: near 0.8 is learnt, not 0.59, the share of the four."""
    import random

    rng, each, seen = random.Random(1), Acceptance(), []
    for _ in range(4000):
        right = next((n for n in range(4) if rng.random() > 0.8), 4)
        each.note(4, right)
        seen.append(each.chance)
    assert sum(seen[100:]) / len(seen[100:]) == pytest.approx(0.78, abs=0.04)


def test_without_guesses_it_recovers_slowly_and_not_beyond_the_start() -> None:
    each = Acceptance()
    each.note(1, 0)
    sunk = each.chance
    each.rest()
    assert sunk < each.chance < sunk + 0.01
    for _ in range(10_000):
        each.rest()
    assert each.chance == pytest.approx(START)
    each.note(3, 3)
    best = each.chance
    each.rest()
    assert each.chance == best


# --- the cost of a step


def test_costs_between_those_seen_lie_on_a_line() -> None:
    assert measured({2: 1.0, 6: 3.0}).curve(1, 6) == [1.0, 1.0, 1.5, 2.0, 2.5, 3.0]


def test_costs_beyond_those_seen_rise_by_half() -> None:
    assert measured({8: 2.0}).curve(8, 20)[-1] == pytest.approx(2.0 * (20 + 4) / (8 + 4))
    assert StepCost().curve(1, FLAT_TOKENS) == [1.0] * FLAT_TOKENS


def test_costs_are_smoothed_and_forgotten() -> None:
    cost = measured({3: 1.0})
    for _ in range(REDRAW_STEPS - 1):
        cost.observe(3, 2.0)
    assert 1.9 < cost.curve(3, 3)[0] < 2.0
    for _ in range(FORGET_STEPS + REDRAW_STEPS):
        cost.observe(1, 1.0)
    assert cost.curve(3, 3) == [1.0], "as flat as one token, until it is seen again"


@pytest.mark.parametrize("num_tokens", [0, MOST_TOKENS + 1, 10_000])
def test_large_and_empty_steps_teach_nothing(num_tokens: int) -> None:
    cost = measured({num_tokens: 9.0})
    assert cost.curve(1, 2) == [1.0, 1.0]
    assert cost.best_count(10_000, [1.0] * 5) == 0


def test_free_guesses_are_taken_and_dear_ones_are_not() -> None:
    assert linear(free=5).best_count(1, [0.9] * 8) == 4
    assert linear(free=3).best_count(1, [0.9] * 8) == 2
    assert linear(free=5).best_count(5, [0.9] * 8) == 0, "the batch is bound by arithmetic"
    assert linear(free=5).best_count(3, [0.9, 0.01]) == 1 + 1
    assert linear(free=1).best_count(1, [1.0] * 8) == 0


def test_a_gain_below_the_margin_is_left() -> None:
    cost = measured({1: 1.0, 2: 1.1})
    assert cost.best_count(1, [0.12]) == 0
    assert cost.best_count(1, [0.14]) == 1


def test_a_step_in_the_costs_is_passed_when_it_pays() -> None:
    """Two tokens cost more than one, but eight no more than two."""
    cost = measured({1: 1.0, 2: 1.8, 8: 1.8})
    assert cost.best_count(1, [0.6]) == 0
    assert cost.best_count(1, [0.9] * 7) == 7


# --- both together


def test_the_likeliest_guesses_come_first() -> None:
    speculator = Speculator(Sure(), 8, linear(free=6))
    one, two = requests(2)
    for _ in range(30):
        speculator.note(one, 2, 2)
        speculator.note(two, 2, 0)
    drafts = speculator.propose([one, two], 2, 100)
    assert [len(draft) for draft in drafts] == [4, 0]


def test_a_batch_that_fills_the_machine_gets_none_and_asks_nobody() -> None:
    method = Sure()
    assert lengths(Speculator(method, 8, linear(free=4)), 8) == [0] * 8
    assert method.num_asked == 0
    assert sum(lengths(Speculator(method, 8, linear(free=4)), 3)) == 1


def test_room_and_most_bound_the_guesses() -> None:
    speculator = Speculator(Sure(), 3, linear(free=30))
    for each in requests(4):
        for _ in range(50):
            speculator.note(each, 5, 5)
    assert lengths(speculator, 4) == [3, 3, 3, 3]
    assert sum(lengths(speculator, 4, room=5)) == 5
    assert lengths(speculator, 0) == []


def test_a_request_that_is_always_wrong_is_tried_only_now_and_then() -> None:
    costs = {n: 1 + 0.1 * (n - 1) for n in range(1, MOST_TOKENS + 1)}
    speculator = Speculator(Sure(), 8, measured(costs))
    (one,) = requests(1)
    drafted = []
    for _ in range(1000):
        (draft,) = speculator.propose([one], 1, 100)
        drafted.append(len(draft))
        if draft:
            speculator.note(one, len(draft), 0)
        speculator.observe(1 + len(draft), costs[1 + len(draft)])
    assert drafted[0] > 0
    late = drafted[100:]
    assert 0 < sum(late) < 0.06 * len(late)


def test_what_is_over_is_forgotten() -> None:
    method = Sure()
    speculator = Speculator(method, 8, linear(free=9))
    (one,) = requests(1)
    speculator.note(one, 1, 0)
    speculator.finish(one)
    assert method.finished == ["r0"] and not speculator._guessing


def test_methods_by_name() -> None:
    assert load_speculator("off", 8) is None
    assert all(load_speculator(name, 8) for name in METHODS)
