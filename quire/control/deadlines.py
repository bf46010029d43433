"""Remembers which requests must be over by when."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush

from quire.control.request import Request

__all__ = ["Deadlines"]


class Deadlines:
    """Submission orders of requests with a deadline, the earliest deadline first.

    A request that ends early leaves its entry behind (three small values) until its deadline.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, str]] = []

    def add(self, request: Request) -> None:
        """Remember the request's deadline, if it has one."""
        if request.deadline is not None:
            heappush(self._entries, (request.deadline, request.order, request.id))

    def pop_due(self, now: float) -> Iterator[tuple[str, int]]:
        """The id and the submission order of each entry whose time has come; forgets it."""
        while self._entries and self._entries[0][0] <= now:
            _, order, request_id = heappop(self._entries)
            yield request_id, order
