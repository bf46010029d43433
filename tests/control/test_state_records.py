"""Which recurrent states are kept, and what a request that finds one begins with."""

import pytest

from quire.control.plan import NO_RECORD, NO_STATE, Chunk
from quire.control.state_records import num_records_needed
from tests.control.scheduling import commit, finish, request, scheduler, step

BLOCK = 4


def recurrent(num_records=64, **changes):
    given = {"num_state_records": num_records, "blocks_per_checkpoint": 4, "max_num_seqs": 4}
    return scheduler(block_tokens=BLOCK, **{**given, **changes})


def chunk_of(each, name):
    """The chunk of a request in the next step, which is run."""
    plan = each.plan(0.0)
    commit(each, plan, {c.request_id: (99,) for c in plan.chunks if c.samples})
    each.check()
    return next(chunk for chunk in plan.chunks if chunk.request_id == name)


def hit(each, prompt, name="late"):
    """How many tokens of a prompt a new request finds; it is run to its end."""
    late = request(name, 0, 1, prompt=prompt)
    each.submit(late)
    finish(each)
    return late.num_cached_tokens


def test_models_without_recurrent_layers_have_no_records():
    each = scheduler()
    each.submit(request("a", 10))
    assert all(chunk.state is NO_STATE for chunk in each.plan(0.0).chunks)


def test_a_request_goes_on_in_the_record_that_nobody_else_can_find():
    each = recurrent(enable_prefix_caching=False)
    each.submit(request("a", 7))
    first = chunk_of(each, "a").state
    assert (first.read, first.mark) == (NO_RECORD, 0)
    for _ in range(6):
        use = chunk_of(each, "a").state
        assert (use.read, use.write) == (first.write, first.write)


def test_a_kept_record_is_read_and_another_one_written():
    each = recurrent()
    each.submit(request("a", 8))
    first = chunk_of(each, "a").state
    second = chunk_of(each, "a").state
    assert second.read == first.write and second.write != first.write


def test_the_end_of_a_prompt_is_kept_by_a_mark():
    each = recurrent()
    each.submit(request("a", 11))
    chunk = chunk_of(each, "a")
    assert len(chunk.tokens) == 11 and chunk.state.mark == 8
    finish(each)
    assert hit(each, range(97_000, 97_011)) == 8
    assert hit(each, [*range(97_000, 97_008), 5, 6, 7], "other") == 8


def test_a_hit_is_no_longer_than_what_has_a_record():
    each = recurrent()
    each.submit(request("a", 30))  # kept: 16 of 4 blocks, 28 as its prompt's end
    finish(each)
    assert hit(each, [*range(97_000, 97_029), 1], "b") == 28
    assert hit(each, [*range(97_000, 97_025), 1], "c") == 0  # one mark a step


def test_a_long_prompt_leaves_a_state_in_every_step_that_passes_one():
    each = recurrent(max_num_batched_tokens=20)
    each.submit(request("a", 30))
    assert chunk_of(each, "a").state.mark == 16
    finish(each)
    assert hit(each, [*range(97_000, 97_020), 1], "b") == 16


def test_of_what_it_generates_only_the_last_block_is_kept():
    each = recurrent()
    each.submit(request("a", 6, max_tokens=9))  # blocks end at 8, 12; 14 are computed
    finish(each)
    known = [*range(97_000, 97_006), *[99] * 9]
    assert hit(each, known[:10]) == 4  # the prompt's end
    assert hit(each, known[:14], "b") == 12


def test_the_least_recently_used_is_forgotten_first():
    each = recurrent(num_records_needed(4) + 1)
    for name in "abcdefghijkl":
        each.submit(request(name, 11, max_tokens=1))
        finish(each)
    assert hit(each, [*range(108_000, 108_011)]) == 8
    assert hit(each, [*range(97_000, 97_011)], "again") == 0


def test_without_prefix_caching_nothing_is_kept():
    each = recurrent(enable_prefix_caching=False)
    each.submit(request("a", 11))
    assert chunk_of(each, "a").state.mark == 0
    finish(each)
    assert hit(each, range(97_000, 97_011)) == 0


def test_a_preempted_request_goes_on_from_its_last_kept_state():
    each = recurrent(num_blocks=5, max_num_batched_tokens=64)
    each.submit(request("a", 6, max_tokens=9))
    each.submit(request("b", 6, max_tokens=9))
    finish(each)
    stats = each.stats()
    assert stats.num_preemptions > 0
    assert stats.num_wasted_tokens < 6 * stats.num_preemptions


@pytest.mark.parametrize("moment", ["before", "within", "behind"])
def test_cancelling_gives_all_records_back(moment):
    each = recurrent()
    each.submit(request("a", 11))
    if moment == "before":
        each.cancel("a")
    plan = each.plan(0.0)
    if moment == "within":
        each.cancel("a")
    commit(each, plan, {c.request_id: (99,) for c in plan.chunks})
    if moment == "behind":
        each.cancel("a")
    each.check()
    assert not each.has_work
    step(each)


def test_fewer_records_than_a_plan_may_need_are_refused():
    with pytest.raises(AssertionError, match="too few records"):
        recurrent(num_records_needed(4) - 1)


def test_a_chunk_without_recurrent_layers_costs_nothing_to_make():
    assert Chunk("a", 0, (1,), (0,), True).state is NO_STATE
