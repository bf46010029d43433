"""Policies: the three that ship, and those of other packages."""

import importlib.metadata
from importlib.metadata import EntryPoint

import pytest

from quire.control.policy import POLICIES, fcfs, load_policy, priority, shortest_remaining
from quire.control.request import Request
from quire.control.stop import StopRules
from quire.errors import ConfigError


def request(
    arrival: float = 0.0, urgency: int = 0, length: int = 1, max_tokens: int = 1
) -> Request:
    return Request("a", [1] * length, StopRules(max_tokens), priority=urgency, arrival=arrival)


def test_fcfs_looks_at_arrival_only():
    assert fcfs(request(1.0, urgency=9)) < fcfs(request(2.0, urgency=-9))


def test_priority_is_lower_first_then_arrival():
    assert priority(request(2.0, urgency=-1)) < priority(request(1.0, urgency=0))
    assert priority(request(1.0)) < priority(request(2.0))


def test_shortest_remaining_counts_what_is_left_to_compute():
    long, short = request(length=10, max_tokens=5), request(length=2, max_tokens=5)
    assert shortest_remaining(short) < shortest_remaining(long)
    long.advance(10)
    assert shortest_remaining(long) < shortest_remaining(short)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_built_in_policies_are_found_by_name(name):
    assert load_policy(name) is POLICIES[name]


def test_a_package_can_offer_a_policy(monkeypatch):
    offered = EntryPoint("mine", "quire.control.policy:fcfs", "quire.scheduling_policies")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [offered])
    assert load_policy("mine") is fcfs


def test_an_unknown_policy_is_an_error_that_lists_all():
    with pytest.raises(ConfigError, match=r"'lifo' does not exist.*fcfs, priority"):
        load_policy("lifo")
