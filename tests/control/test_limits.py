"""Limits: what is refused, with the field at fault and the cure."""

import pytest

from quire.control.limits import Limits
from quire.control.request import Request
from quire.control.stop import StopRules
from quire.errors import CapacityError, ConfigError, QueueFullError, RequestError


def limits(**changes: object) -> Limits:
    given = {
        "num_blocks": 4,
        "block_tokens": 4,
        "max_num_batched_tokens": 8,
        "max_num_seqs": 2,
        "max_model_len": 12,
        "max_queued": 1,
        "enable_chunked_prefill": True,
        "lookahead_tokens": 3,
    }
    return Limits(**{**given, **changes})


def request(length: int, max_tokens: int) -> Request:
    return Request("a", [1] * length, StopRules(max_tokens))


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_blocks", 0), ("block_tokens", 0), ("max_num_seqs", 0), ("lookahead_tokens", -1)],
)
def test_bounds_are_checked(field, value):
    with pytest.raises(ConfigError, match=f"{field} is {value}"):
        limits(**{field: value})


def test_the_pool_must_hold_one_request():
    with pytest.raises(CapacityError, match=r"max_model_len 17 .* holds 16 tokens"):
        limits(max_model_len=17)


@pytest.mark.parametrize(
    ("length", "max_tokens", "param"),
    [(0, 1, "prompt"), (13, 0, "prompt"), (12, 1, "max_tokens")],
)
def test_impossible_requests_are_refused(length, max_tokens, param):
    with pytest.raises(RequestError) as caught:
        limits().refuse_impossible(request(length, max_tokens))
    assert caught.value.param == param


def test_a_prompt_over_the_budget_is_refused_only_without_chunks():
    limits().refuse_impossible(request(9, 1))
    with pytest.raises(RequestError, match="enable chunked prefill"):
        limits(enable_chunked_prefill=False).refuse_impossible(request(9, 1))


def test_a_window_bounds_what_one_request_holds():
    windowed = limits(num_blocks=6, max_model_len=1000, window=8, max_num_batched_tokens=4)
    assert windowed.num_blocks_at_once == 4  # 11 positions touch 4 blocks of 4
    with pytest.raises(CapacityError, match="does not fit"):
        limits(num_blocks=3, max_model_len=1000, window=8, max_num_batched_tokens=4)
    each = request(400, 100)
    assert windowed.num_blocks_ahead(each, 90, 3) == 1


def test_a_full_queue_refuses():
    limits().refuse_full(0)
    limits(max_queued=None).refuse_full(10**6)
    with pytest.raises(QueueFullError, match="max_queued is 1"):
        limits().refuse_full(1)


def test_blocks_ahead_count_known_tokens_and_lookahead_up_to_the_end():
    each = request(4, 8)
    assert limits().num_blocks_reserved(each) == 2  # 4 known + 3 ahead
    assert limits(lookahead_tokens=99).num_blocks_reserved(each) == 3  # never past 12
    each.block_table = [0]
    assert limits().num_blocks_reserved(each) == 1
