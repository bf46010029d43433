"""Stop rules: what ends a request, what must not be sampled, and which reason wins."""

import pytest

from quire.control.stop import Finish, StopRules

EOS, STOP, OTHER = 0, 5, 9


def rules(**changes: object) -> StopRules:
    given = {"max_tokens": 10, "eos_token_ids": {EOS}, "stop_token_ids": {STOP}}
    return StopRules(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "token", "num_output", "finish"),
    [
        ({}, OTHER, 1, None),
        ({}, EOS, 1, Finish("stop")),
        ({}, STOP, 1, Finish("stop", STOP)),
        ({}, OTHER, 10, Finish("length")),
        ({}, STOP, 10, Finish("stop", STOP)),
        ({"ignore_eos": True}, EOS, 1, None),
        ({"ignore_eos": True}, STOP, 1, Finish("stop", STOP)),
        ({"ignore_eos": True, "stop_token_ids": {EOS}}, EOS, 1, Finish("stop", EOS)),
        ({"stop_token_ids": {EOS}}, EOS, 1, Finish("stop")),
        ({"min_tokens": 2}, EOS, 2, None),
        ({"min_tokens": 2}, EOS, 3, Finish("stop")),
        ({"min_tokens": 12}, STOP, 10, Finish("length")),
    ],
)
def test_finish_reason(changes, token, num_output, finish):
    assert rules(**changes).finish_reason(token, num_output) == finish


@pytest.mark.parametrize("num_output", range(5))
@pytest.mark.parametrize("ignore_eos", [False, True])
def test_a_stop_token_is_either_forbidden_or_ends_the_request(num_output, ignore_eos):
    stop = rules(min_tokens=2, ignore_eos=ignore_eos)
    for token in [STOP] if ignore_eos else [STOP, EOS]:
        ends = stop.finish_reason(token, num_output + 1) is not None
        assert ends != (token in stop.forbidden_token_ids(num_output))


def test_an_ignored_end_of_text_may_be_sampled():
    assert rules(min_tokens=2, ignore_eos=True).forbidden_token_ids(0) == {STOP}
