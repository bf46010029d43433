"""The waiting queue: order, ties and removal."""

from quire.control.policy import Policy, fcfs, priority
from quire.control.request import Request
from quire.control.stop import StopRules
from quire.control.waiting import WaitingQueue


def queue(policy: Policy, *requests: tuple[float, int]) -> tuple[WaitingQueue, list[Request]]:
    """A queue of requests given as arrival and priority, submitted in this order."""
    waiting, made = WaitingQueue(policy), []
    for order, (arrival, urgency) in enumerate(requests):
        each = Request(str(order), [1], StopRules(1), priority=urgency, arrival=arrival)
        each.order = order
        waiting.add(each)
        made.append(each)
    return waiting, made


def test_the_policy_orders_and_ties_go_by_submission():
    waiting, (a, b, c, d) = queue(fcfs, (2.0, 0), (1.0, 0), (2.0, 0), (0.0, 0))
    assert list(waiting) == [d, b, a, c]
    assert waiting.first is d
    waiting, (a, b) = queue(priority, (0.0, 1), (1.0, 0))
    assert list(waiting) == [b, a]


def test_any_request_can_leave_and_come_back_to_its_place():
    waiting, (a, b, c) = queue(fcfs, (0.0, 0), (1.0, 0), (2.0, 0))
    waiting.remove(b)
    assert list(waiting) == [a, c]
    waiting.add(b)
    assert list(waiting) == [a, b, c]
    assert len(waiting) == 3


def test_a_key_that_changes_while_waiting_is_still_found():
    waiting, (a, b) = queue(priority, (0.0, 1), (0.0, 2))
    a.priority = 99
    waiting.remove(a)
    assert list(waiting) == [b]
