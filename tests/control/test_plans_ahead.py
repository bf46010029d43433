"""Plans made while another one is open; random worlds of them are in test_fuzz.py."""

import pytest

from quire.control.plan import UNKNOWN_TOKEN, Plan
from quire.control.request import Request
from quire.control.scheduler import Scheduler
from quire.control.stop import StopRules
from tests.control.scheduling import Always, commit, request, scheduler, shape


def started(*requests: Request, **changes: object) -> tuple[Scheduler, Plan]:
    """A scheduler whose first plan is open."""
    each = scheduler(**changes)
    for one in requests:
        each.submit(one)
    return each, each.plan(0.0)


def told(each: Scheduler, plan: Plan, token: int = 99) -> list[tuple[str, str | None]]:
    """Commit a plan; who is told something, and why it is over."""
    sampled = {chunk.request_id: (token,) for chunk in plan.chunks if chunk.samples}
    updates = commit(each, plan, sampled)
    each.check()
    return [(update.request_id, update.finish_reason) for update in updates]


def test_a_token_that_is_being_sampled_is_ordered_by_a_stand_in():
    each, first = started(request("a", 4))
    second = each.plan(0.0)
    assert [(c.start, c.tokens, c.samples) for c in second.chunks] == [(4, [UNKNOWN_TOKEN], True)]
    told(each, first, 7)
    third = each.plan(0.0)
    assert [(c.start, c.tokens) for c in third.chunks] == [(5, [UNKNOWN_TOKEN])]
    told(each, second, 8)
    assert each._running[0].output == [7, 8]


def test_a_long_prompt_goes_on_where_the_open_chunk_ends():
    each, first = started(request("a", 10), max_num_batched_tokens=4)
    second = each.plan(0.0)
    assert [(c.start, len(c.tokens), c.samples) for c in second.chunks] == [(4, 4, False)]
    told(each, first)
    assert [(c.start, len(c.tokens), c.samples) for c in each.plan(0.0).chunks] == [(8, 2, True)]


def test_nothing_is_planned_behind_the_last_token_by_length():
    each, first = started(request("a", 4, max_tokens=2), request("b", 4, max_tokens=1))
    second = each.plan(0.0)
    assert shape(second) == {"a": 1}
    assert told(each, first) == [("a", None), ("b", "length")]
    assert not each.plan(0.0).chunks
    assert told(each, second) == [("a", "length")]
    assert each.stats().num_used_blocks == 0


def test_two_plans_may_be_open_and_are_committed_in_order():
    each, first = started(request("a", 4))
    second = each.plan(0.0)
    with pytest.raises(AssertionError, match="before making a third"):
        each.plan(0.0)
    with pytest.raises(AssertionError, match="oldest"):
        told(each, second)
    told(each, first)
    told(each, second)


def test_what_came_behind_the_end_is_dropped_and_its_blocks_wait_for_it():
    stop = StopRules(8, stop_token_ids=frozenset({5}))
    each, first = started(Request("a", range(4), stop))
    second = each.plan(0.0)
    assert told(each, first, 5) == [("a", "stop")]
    assert not each.has_work and each.stats().num_used_blocks == 2
    assert told(each, second, 6) == []
    assert each.stats().num_used_blocks == 0


def test_a_cancelled_request_keeps_its_blocks_until_the_last_plan_with_it_is_committed():
    each, first = started(request("a", 4))
    second = each.plan(0.0)
    each.cancel("a")
    each.submit(request("a", 3))  # the id is in use again
    third_of_other = told(each, first)
    assert third_of_other == [] and each.stats().num_used_blocks == 2
    plan = each.plan(0.0)
    assert shape(plan) == {"a": 3}
    assert told(each, second) == [] and each.stats().num_used_blocks == 1
    assert told(each, plan) == [("a", None)]


def test_a_plan_made_ahead_preempts_nobody():
    each, first = started(request("a", 8), request("b", 8), num_blocks=4)
    assert not each.plan(0.0).chunks  # a third block for "a" is there only without "b"
    told(each, first)
    assert each.stats().num_preemptions == 0
    assert shape(each.plan(0.0)) == {"a": 1}
    assert each.stats().num_preemptions == 1


def test_a_request_whose_token_the_host_must_see_is_waited_for():
    each, first = started(request("a", 4, plan_ahead=False), request("b", 4))
    assert not each.plan(0.0).chunks
    told(each, first)
    assert shape(each.plan(0.0)) == {"a": 1, "b": 1}


def test_its_prompt_is_not_waited_for():
    each, _ = started(request("a", 8, plan_ahead=False), max_num_batched_tokens=4)
    assert shape(each.plan(0.0)) == {"a": 4}


def test_guesses_want_every_token():
    each, first = started(request("a", 4), drafter=Always(1))
    assert not each.plan(0.0).chunks
    told(each, first)


def test_a_state_is_followed_while_it_is_being_written():
    each, first = started(request("a", 3), num_state_records=32)
    second = each.plan(0.0)
    told(each, first)
    third = each.plan(0.0)
    one, two, three = (plan.chunks[0].state for plan in (first, second, third))
    assert one.write == two.read == two.write == three.read  # behind four tokens, a block
    assert three.write != three.read, "others will find what stands behind a block"
    told(each, second)
    told(each, third)


def test_without_a_record_nothing_is_planned_ahead():
    """And what was planned for another request is forgotten."""
    each, first = started(
        request("a", 4), request("b", 4), num_state_records=5, max_num_seqs=2, block_tokens=1
    )
    second = each.plan(0.0)  # every token ends a block: four records are held
    told(each, first)
    third = each.plan(0.0)  # one has room, the other has none
    told(each, second)
    assert [len(plan.chunks) for plan in (first, second, third)] == [2, 2, 0]
    assert [chunk.start for chunk in each.plan(0.0).chunks] == [5, 5]


def test_a_request_without_a_token_to_choose_ends_with_an_error():
    each, first = started(request("a", 4), request("b", 4))
    second = each.plan(0.0)
    updates = commit(each, first, {"b": (1,)}, failed=["a"])
    assert [(u.request_id, u.tokens, u.finish_reason) for u in updates] == [
        ("a", (), "error"),
        ("b", (1,), None),
    ]
    commit(each, second, {"b": (1,)}, failed=["a"])
    each.check()


def test_full_blocks_are_found_once_their_tokens_are_known():
    each, first = started(Request("a", range(3), StopRules(8)))
    second = each.plan(0.0)
    told(each, first, 7)
    third = each.plan(0.0)
    told(each, second, 8)  # which computed 7: the first block is full
    each.submit(Request("b", [0, 1, 2, 7, 1], StopRules(1)))
    fourth = each.plan(0.0)
    assert {c.request_id: c.start for c in fourth.chunks} == {"a": 5, "b": 4}
    told(each, third)
    told(each, fourth)
