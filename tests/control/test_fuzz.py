"""Random worlds: whatever is cut, shared, preempted or cancelled, every output is as if alone."""

import pytest

from tests.control.fuzz import run_worlds

NUM_WORLDS = 1600
BATCH = 100


@pytest.mark.parametrize("first", range(0, NUM_WORLDS, BATCH))
def test_random_worlds(first):
    totals = run_worlds(first, BATCH)
    windows = ("blocks passed", "long requests", "hits behind a window")
    for event in (
        "preemptions",
        "wasted tokens",
        "prefix hit tokens",
        "aborted",
        "refused",
        *windows,
        "state hit tokens",
        "state preemptions",
    ):
        assert totals[event] > 0, f"worlds without {event} prove nothing about them"
    assert totals["drafted tokens"] > totals["accepted tokens"] > 0


@pytest.mark.parametrize("first", range(0, NUM_WORLDS // 4, BATCH))
def test_random_worlds_ahead(first):
    """The same where every plan is made before the one before it is committed."""
    totals = run_worlds(first, BATCH, ahead=True)
    events = ("preemptions", "prefix hit tokens", "aborted", "hits behind a window")
    for event in (*events, "plans ahead", "overshot chunks"):
        assert totals[event] > 0, f"worlds without {event} prove nothing about them"


def test_some_worlds_load_stored_blocks():
    """They are rare: a batch of worlds may have none."""
    totals = run_worlds(NUM_WORLDS, 3 * BATCH)
    assert totals["store hit tokens"] > totals["evicted hit tokens"] > 0
    assert totals["failed loads"] > 0
