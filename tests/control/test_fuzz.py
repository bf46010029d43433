"""Random worlds: whatever is cut, shared, preempted or cancelled, every output is as if alone."""

import pytest

from tests.control.fuzz import run_worlds

NUM_WORLDS = 1600
BATCH = 100


@pytest.mark.parametrize("first", range(0, NUM_WORLDS, BATCH))
def test_random_worlds(first):
    totals = run_worlds(first, BATCH)
    cache = ("prefix hit tokens", "store hit tokens", "failed loads")
    for event in ("preemptions", "wasted tokens", "aborted", "refused", *cache):
        assert totals[event] > 0, f"worlds without {event} prove nothing about them"
    assert totals["drafted tokens"] > totals["accepted tokens"] > 0
