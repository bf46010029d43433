"""The queue of requests that hold no blocks, the most urgent first."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Any

from quire.control.policy import Policy
from quire.control.request import Request

__all__ = ["WaitingQueue"]


class WaitingQueue:
    """Requests sorted by policy key, then submission order; a preempted one returns to its place.

    A sorted list beats a heap here: any request may be cancelled, and moving ten thousand pointers
    takes microseconds.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._entries: list[tuple[Any, int, Request]] = []
        self._key_of: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Request]:
        return (request for _, _, request in self._entries)

    @property
    def first(self) -> Request:
        """The most urgent request; the queue must not be empty."""
        return self._entries[0][2]

    def add(self, request: Request) -> None:
        """Queue a request under the key that it has now."""
        key = self._key_of[request.order] = self._policy(request)
        insort(self._entries, (key, request.order, request))

    def remove(self, request: Request) -> None:
        """Take a request out of the queue; it must be in it."""
        place = bisect_left(self._entries, (self._key_of.pop(request.order), request.order))
        assert self._entries[place][2] is request
        del self._entries[place]
