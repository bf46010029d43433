"""Deadlines come due in order, once."""

from quire.control.deadlines import Deadlines
from quire.control.request import Request
from quire.control.stop import StopRules


def test_entries_come_due_in_order_and_once():
    deadlines = Deadlines()
    for order, deadline in enumerate([3.0, None, 1.0, 2.0]):
        each = Request(f"r{order}", [1], StopRules(1), deadline=deadline)
        each.order = order
        deadlines.add(each)
    assert list(deadlines.pop_due(0.5)) == []
    assert list(deadlines.pop_due(2.0)) == [("r2", 2), ("r3", 3)]
    assert list(deadlines.pop_due(9.0)) == [("r0", 0)]
