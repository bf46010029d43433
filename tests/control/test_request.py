"""A request: counters, waste, and taking in several tokens at once."""

from quire.control.plan import Update
from quire.control.request import Request
from quire.control.stop import Finish, StopRules


def request(max_tokens: int = 4) -> Request:
    return Request("a", (1, 2, 3), StopRules(max_tokens, eos_token_ids=frozenset({0})))


def test_counters():
    each = request()
    assert (each.num_prompt, each.num_output, each.max_len) == (3, 0, 7)
    each.accept((7, 8))
    assert (each.tokens, each.output, each.num_output) == ([1, 2, 3, 7, 8], [7, 8], 2)


def test_tokens_after_the_end_are_dropped():
    each = request()
    assert each.accept((7, 0, 8)) == Update("a", (7, 0), "stop")
    assert each.output == [7, 0]


def test_several_tokens_stop_at_max_tokens():
    assert request(max_tokens=2).accept((7, 8, 9)) == Update("a", (7, 8), "length")


def test_a_request_without_output_ends_when_its_prompt_is_read():
    assert request(max_tokens=0).accept(()) == Update("a", (), "length")


def test_waste_counts_positions_computed_before():
    each = request()
    assert each.advance(3) == 0
    assert each.advance(4) == 0
    each.num_lost, each.num_computed = each.num_peak, 0  # preempted
    assert each.advance(3) == 3
    assert each.advance(6) == 1
    assert (each.num_wasted_tokens, each.num_peak, each.num_computed) == (4, 6, 6)


def test_update_carries_the_reason():
    each = request()
    assert each.update((7,)) == Update("a", (7,))
    assert each.update((5,), Finish("stop", 5)) == Update("a", (5,), "stop", 5)
