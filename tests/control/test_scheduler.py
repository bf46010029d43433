"""The scheduler, one rule a test; the rules together are tested in test_fuzz.py."""

import pytest

from quire.control import prefix
from quire.control.plan import Update
from quire.control.policy import priority
from quire.errors import QueueFullError, RequestError
from tests.control.scheduling import commit, finish, request, scheduler, shape, step

# --- plans


def test_a_long_prompt_is_cut_to_the_budget_and_samples_at_its_end():
    each = scheduler(max_num_batched_tokens=8)
    each.submit(request("a", 10))
    first = each.plan(0.0)
    assert [(c.start, len(c.tokens), c.samples) for c in first.chunks] == [(0, 8, False)]
    assert commit(each, first, {}) == ()
    second = each.plan(0.0)
    assert [(c.start, len(c.tokens), c.samples) for c in second.chunks] == [(8, 2, True)]
    assert commit(each, second, {"a": (7,)}) == (Update("a", (7,)),)
    third = each.plan(0.0)
    assert [(c.start, list(c.tokens)) for c in third.chunks] == [(10, [7])]


def test_running_requests_come_before_waiting_ones():
    each = scheduler(max_num_batched_tokens=6)
    each.submit(request("a", 4))
    step(each)
    each.submit(request("b", 9))
    assert shape(each.plan(0.0)) == {"a": 1, "b": 5}


def test_num_seqs_bounds_the_running():
    each = scheduler(max_num_seqs=2)
    for name in "abc":
        each.submit(request(name, 2))
    assert list(shape(each.plan(0.0))) == ["a", "b"]


def test_the_policy_orders_admission_and_running():
    each = scheduler(policy=priority, max_num_batched_tokens=3)
    each.submit(request("low", 2, priority=5))
    each.submit(request("high", 2, priority=-5))
    assert shape(each.plan(0.0)) == {"high": 2, "low": 1}


def test_nothing_overtakes_the_first_waiting_request():
    each = scheduler(num_blocks=4)
    each.submit(request("a", 8, 2))
    step(each)
    each.submit(request("large", 12, 2))
    each.submit(request("small", 1, 1))
    assert shape(each.plan(0.0)) == {"a": 1}


def test_without_chunks_a_prompt_waits_until_it_fits_the_budget_whole():
    each = scheduler(enable_chunked_prefill=False, max_num_batched_tokens=8)
    each.submit(request("a", 4, 2))
    each.submit(request("b", 8))
    for expected in ({"a": 4}, {"a": 1}):
        plan = each.plan(0.0)
        assert shape(plan) == expected
        commit(each, plan, {"a": (1,)})
    assert shape(each.plan(0.0)) == {"b": 8}


def test_a_plan_is_committed_once():
    each = scheduler()
    each.submit(request("a", 4))
    plan = each.plan(0.0)
    commit(each, plan, {"a": (1,)})
    with pytest.raises(AssertionError, match="once"):
        commit(each, plan, {"a": (1,)})


def test_a_missing_token_is_noticed():
    each = scheduler()
    each.submit(request("a", 4))
    with pytest.raises(AssertionError, match="no token was sampled for request 'a'"):
        commit(each, each.plan(0.0), {})


# --- the prefix cache


def test_a_finished_prompt_serves_the_next():
    each = scheduler()
    prompt = list(range(10))
    each.submit(request("a", 0, 1, prompt=prompt))
    step(each)
    each.submit(request("b", 0, 1, prompt=prompt))
    plan = each.plan(0.0)
    assert [(c.start, len(c.tokens)) for c in plan.chunks] == [(8, 2)]
    (update,) = commit(each, plan, {"b": (1,)})
    assert update.num_cached_tokens == 8
    stats = each.stats()
    assert (stats.prefix_query_tokens, stats.prefix_hit_tokens) == (20, 8)


def test_blocks_of_an_open_plan_are_not_shared_yet():
    each = scheduler()
    for name in "ab":
        each.submit(request(name, 0, prompt=range(10)))
    assert shape(each.plan(0.0)) == {"a": 10, "b": 10}


def test_a_live_request_shares_its_blocks():
    each = scheduler()
    each.submit(request("a", 0, prompt=range(8)))
    step(each)
    each.submit(request("b", 0, prompt=range(9)))
    plan = each.plan(0.0)
    tables = {chunk.request_id: chunk.block_table for chunk in plan.chunks}
    assert tables["b"][:2] == tables["a"][:2]
    assert each.stats().num_used_blocks == 4


def test_generated_tokens_are_found_as_well():
    each = scheduler()
    each.submit(request("a", 0, 5, prompt=range(4)))
    finish(each)
    each.submit(request("b", 0, 1, prompt=[*range(4), 99, 99, 99, 99, 5]))
    assert each.plan(0.0).chunks[0].start == 8


# --- memory


def test_a_request_that_outgrows_the_pool_pushes_out_the_least_urgent():
    each = scheduler(num_blocks=4)
    each.submit(request("a", 8, 8))
    each.submit(request("b", 7, 8))
    step(each)
    assert shape(each.plan(0.0)) == {"a": 1}
    stats = each.stats()
    assert (stats.num_preemptions, stats.num_running, stats.num_waiting) == (1, 1, 1)


def test_two_requests_too_long_for_the_pool_run_one_after_the_other():
    each = scheduler(num_blocks=6)
    each.submit(request("a", 4, 20))
    each.submit(request("b", 4, 20))
    assert finish(each) == ["a", "b"]
    stats = each.stats()
    assert stats.num_preemptions == 1
    assert 0 < stats.num_wasted_tokens <= 12


def test_a_preempted_request_goes_on_where_it_was():
    each = scheduler(num_blocks=6, enable_prefix_caching=False)
    second = request("b", 4, 20)
    each.submit(request("a", 4, 20))
    each.submit(second)
    finish(each)
    assert second.num_preemptions == 1
    assert second.num_output == 20
    assert second.num_wasted_tokens == each.stats().num_wasted_tokens


def test_a_preempted_request_waits_before_those_that_came_later():
    each = scheduler(num_blocks=4)
    for name, arrival in [("a", 0.0), ("b", 1.0)]:
        each.submit(request(name, 7, 8, arrival=arrival))
    step(each)
    each.submit(request("c", 7, 8, arrival=2.0))
    for now in range(3, 6):
        step(each, float(now))
    assert each.stats().num_preemptions == 1
    assert finish(each) == ["a", "b", "c"]


def test_preemption_hashes_nothing_again(monkeypatch):
    hashed = []
    original = prefix.block_key
    monkeypatch.setattr(
        "quire.control.prefix.block_key",
        lambda parent, tokens, _: hashed.append((parent, *tokens)) or original(parent, tokens),
    )
    each = scheduler(num_blocks=6)
    each.submit(request("a", 0, 20, prompt=range(4)))
    each.submit(request("b", 0, 20, prompt=range(4, 8)))
    plan_tokens = iter(range(100, 1000))
    while each.has_work:
        step(each, token=next(plan_tokens))
    assert each.stats().num_preemptions == 1
    assert len(set(hashed)) == len(hashed)


def test_the_least_urgent_pauses_instead_of_losing_its_blocks():
    each = scheduler(num_blocks=4, max_num_batched_tokens=64)
    each.submit(request("a", 7, 9))
    each.submit(request("b", 8, 8))
    step(each)
    assert shape(each.plan(0.0)) == {"a": 1}
    assert each.stats().num_preemptions == 0


def test_a_large_enough_lookahead_never_preempts():
    each = scheduler(num_blocks=8, lookahead_tokens=100)
    for name in "abcd":
        each.submit(request(name, 4, 12))
    assert finish(each) == list("abcd")
    assert each.stats().num_preemptions == 0


def test_admission_leaves_room_for_what_runs():
    each = scheduler(num_blocks=4, lookahead_tokens=8)
    each.submit(request("a", 4, 8))
    each.submit(request("b", 4, 4))
    assert shape(each.plan(0.0)) == {"a": 4}


# --- the end


def test_cancel_at_any_time_frees_the_blocks():
    each = scheduler()
    each.submit(request("running", 8))
    plan = each.plan(0.0)
    each.submit(request("waiting", 8))
    assert each.cancel("waiting") == Update("waiting", (), "abort")
    assert each.cancel("running") == Update("running", (), "abort")
    assert each.cancel("running") is None
    assert commit(each, plan, {"running": (1,)}) == ()
    assert not each.has_work
    assert each.stats().num_free_blocks == 64


def test_a_cancelled_plan_does_not_touch_a_new_request_of_the_same_id():
    each = scheduler()
    each.submit(request("a", 8))
    plan = each.plan(0.0)
    each.cancel("a")
    each.submit(request("a", 4))
    assert commit(each, plan, {"a": (1,)}) == ()
    assert shape(each.plan(0.0)) == {"a": 4}


def test_a_plan_keeps_its_block_tables_when_a_request_is_cancelled():
    each = scheduler()
    each.submit(request("a", 8))
    (chunk,) = each.plan(0.0).chunks
    each.cancel("a")
    assert len(chunk.block_table) == 2


def test_a_cancelled_chunk_is_not_published():
    each = scheduler()
    each.submit(request("a", 0, prompt=range(9)))
    plan = each.plan(0.0)
    each.cancel("a")
    commit(each, plan, {"a": (1,)})
    each.submit(request("b", 0, prompt=range(9)))
    assert shape(each.plan(0.0)) == {"b": 9}


def test_cancel_may_say_why():
    each = scheduler()
    each.submit(request("a", 8))
    assert each.cancel("a", "stop") == Update("a", (), "stop")


def test_deadlines_end_running_and_waiting_requests():
    each = scheduler(max_num_seqs=1)
    each.submit(request("a", 4, deadline=5.0))
    each.submit(request("b", 4, deadline=6.0))
    each.submit(request("c", 4))
    step(each)
    assert each.expire(4.9) == ()
    assert each.expire(6.0) == (Update("a", (), "abort"), Update("b", (), "abort"))
    assert finish(each) == ["c"]


def test_a_deadline_does_not_outlive_its_request():
    each = scheduler()
    each.submit(request("a", 4, deadline=5.0))
    each.cancel("a")
    each.submit(request("a", 4))
    assert each.expire(9.0) == ()


def test_several_tokens_at_once():
    each = scheduler()
    each.submit(request("a", 4, 5))
    assert commit(each, each.plan(0.0), {"a": (1, 2, 3)}) == (Update("a", (1, 2, 3)),)
    plan = each.plan(0.0)
    assert [(c.start, list(c.tokens)) for c in plan.chunks] == [(4, [1, 2, 3])]
    assert commit(each, plan, {"a": (4, 5, 6)}) == (Update("a", (4, 5), "length"),)


def test_a_request_that_only_reads_ends_with_its_prompt():
    each = scheduler()
    each.submit(request("a", 4, 0))
    assert commit(each, each.plan(0.0), {}) == (Update("a", (), "length"),)
    assert not each.has_work


# --- refusals and stats


def test_refusals():
    each = scheduler(max_queued=1, max_model_len=16)
    each.submit(request("a", 4))
    with pytest.raises(RequestError, match="'a' is in use"):
        each.submit(request("a", 4))
    with pytest.raises(QueueFullError):
        each.submit(request("b", 4))
    with pytest.raises(RequestError, match="model length of 16"):
        each.submit(request("c", 12))
    step(each)
    each.submit(request("b", 4))


def test_stats():
    each = scheduler(num_blocks=8, max_num_seqs=1)
    each.submit(request("a", 5, arrival=1.0))
    each.submit(request("b", 5, arrival=2.0))
    step(each, now=4.0)
    stats = each.stats()
    assert (stats.num_running, stats.num_waiting) == (1, 1)
    assert (stats.num_used_blocks, stats.num_free_blocks, stats.num_cached_blocks) == (2, 6, 0)
    assert (stats.kv_usage, stats.fragmentation) == (0.25, 3 / 8)
    assert stats.oldest_wait_s == 2.0
    each.cancel("a")
    assert each.stats().num_cached_blocks == 1
    assert each.stats().fragmentation == 0.0
