"""Guesses in plans, one rule a test; the rules together are tested in test_fuzz.py."""

from __future__ import annotations

from typing import Any

from quire.control.plan import Chunk, Update
from quire.control.request import Request
from quire.control.scheduler import Scheduler
from quire.control.stop import StopRules
from tests.control.scheduling import Always, commit


def scheduler(drafter: Always, **changes: Any) -> Scheduler:
    given = {"num_blocks": 64, "block_tokens": 4, "max_num_batched_tokens": 64, "max_num_seqs": 8}
    return Scheduler(**{**given, "lookahead_tokens": 0, "drafter": drafter, **changes})


def request(name: str, length: int, max_tokens: int = 20, **fields: Any) -> Request:
    return Request(name, range(length), StopRules(max_tokens), **fields)


def started(each: Scheduler, *requests: Request) -> Scheduler:
    """The scheduler after a first step of these requests, whose guesses were wrong."""
    for one in requests:
        each.submit(one)
    plan = each.plan(0.0)
    commit(each, plan, {one.id: (9,) for one in requests})
    return each


def only_chunk(each: Scheduler) -> Chunk:
    (chunk,) = each.plan(0.0).chunks
    return chunk


def test_guesses_stand_behind_what_is_known() -> None:
    each = started(scheduler(Always(1, 2, 3)), request("a", 5))
    chunk = only_chunk(each)
    assert (chunk.start, list(chunk.tokens), chunk.num_drafts) == (5, [9, 1, 2, 3], 3)
    assert chunk.samples and len(chunk.block_table) == 3


def test_right_guesses_are_computed_and_wrong_ones_are_not() -> None:
    each = started(scheduler(Always(1, 2, 3)), request("a", 5))
    plan = each.plan(0.0)
    assert commit(each, plan, {"a": (1, 2, 7)}) == (Update("a", (1, 2, 7)),)
    chunk = only_chunk(each)
    assert (chunk.start, chunk.tokens[0]) == (8, 7)
    assert len(chunk.tokens) == 1 + 3


def test_wrong_guesses_are_never_found_in_the_cache() -> None:
    each = started(scheduler(Always(1, 2, 3)), request("a", 5))
    commit(each, each.plan(0.0), {"a": (1, 7)})
    each.cancel("a")
    prompt = [*range(5), 9, 1, 2, 3, 4]
    each.submit(Request("b", prompt, StopRules(1)))
    assert only_chunk(each).start == 4, "one block of range(5) is computed, none of the guesses"


def test_the_end_cuts_a_run_of_right_guesses() -> None:
    drafter = Always(1, 2, 3)
    one = Request("a", range(5), StopRules(20, stop_token_ids={2}))
    each = started(scheduler(drafter), one)
    update = Update("a", (1, 2), "stop", 2)
    assert commit(each, each.plan(0.0), {"a": (1, 2, 3, 4)}) == (update,)
    assert one.num_peak == len(one.tokens) == 8
    stats = each.stats()
    assert stats.num_free_blocks == 64
    assert drafter.told[-2:] == [("a", 3, 3), ("a",)]


def test_the_last_token_is_never_guessed() -> None:
    each = started(scheduler(Always(1, 2, 3)), request("a", 5, 3), request("b", 6, 2))
    chunks = each.plan(0.0).chunks
    assert [chunk.num_drafts for chunk in chunks] == [1, 0]


def test_a_request_may_refuse_guesses() -> None:
    drafter = Always(1)
    each = started(scheduler(drafter), request("a", 5, allow_drafts=False), request("b", 6))
    assert [chunk.num_drafts for chunk in each.plan(0.0).chunks] == [0, 1]
    assert drafter.asked[-1] == (["b"], 2, 62)


def test_guesses_take_what_the_budget_leaves() -> None:
    drafter = Always(1, 2, 3, 4, 5, 6)
    each = started(scheduler(drafter, max_num_batched_tokens=8), request("a", 5))
    each.submit(request("b", 6))
    chunks = each.plan(0.0).chunks
    assert drafter.asked[-1] == (["a", "b"], 3, 5), "one token of a, and two that b does not share"
    assert [(len(chunk.tokens), chunk.num_drafts) for chunk in chunks] == [(3, 2), (4, 2)]


def test_a_prompt_in_parts_gets_no_guesses() -> None:
    each = scheduler(Always(1), max_num_batched_tokens=8)
    each.submit(request("a", 12))
    plan = each.plan(0.0)
    assert plan.chunks[0].num_drafts == 0
    commit(each, plan, {})
    assert only_chunk(each).num_drafts == 1


def test_guesses_leave_reserved_blocks_alone() -> None:
    """Each of two requests of two blocks has one more reserved: a may take its own, not b's."""
    drafter = Always(*range(1, 8))
    each = scheduler(drafter, num_blocks=6, lookahead_tokens=4, enable_prefix_caching=False)
    drafter.draft = ()
    started(each, request("a", 7, 9), request("b", 7, 9))
    drafter.draft = tuple(range(1, 8))
    chunks = each.plan(0.0).chunks
    assert [len(chunk.block_table) for chunk in chunks] == [3, 3]
    assert [chunk.num_drafts for chunk in chunks] == [4, 4]
    each.check()


def test_nobody_is_preempted_for_a_guess() -> None:
    drafter = Always()
    each = scheduler(drafter, num_blocks=4)
    started(each, request("a", 7, 9), request("b", 7, 1 + 8))
    drafter.draft = tuple(range(1, 8))
    chunks = each.plan(0.0).chunks
    assert [chunk.num_drafts for chunk in chunks] == [0, 0]
    assert each.stats().num_preemptions == 0


def test_the_drafter_learns_what_was_right_and_how_long_it_took() -> None:
    drafter = Always(1, 2, 3)
    each = started(scheduler(drafter), request("a", 5))
    drafter.told.clear()
    commit(each, each.plan(0.0), {"a": (1, 7)}, 0.25)
    assert drafter.told == [("a", 3, 1), (4, 0.25)]
    stats = each.stats()
    assert (stats.num_drafts, stats.num_draft_tokens, stats.num_accepted_tokens) == (2, 6, 1)


def test_the_drafter_hears_of_every_end() -> None:
    drafter = Always()
    each = scheduler(drafter)
    each.submit(request("waiting", 5, deadline=1.0))
    each.submit(request("cancelled", 5))
    each.cancel("cancelled")
    each.expire(2.0)
    assert drafter.told == [("cancelled",), ("waiting",)]
