"""The plans that were made and are not committed yet, and the blocks that wait for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from quire.control.blocks import BlockPool
from quire.control.plan import Chunk, Plan
from quire.control.request import Request

__all__ = ["OpenChunks", "OpenPlans"]


class OpenChunks(dict[Request, Chunk]):
    """What the open plan computes of each request; empty where none is open."""

    def can_be_followed(self) -> bool:
        """Whether a plan may be made although the tokens that these sample are not known yet."""
        return all(request.plan_ahead or not chunk.samples for request, chunk in self.items())

    def behind(self, request: Request) -> tuple[int, int]:
        """Where the request's chunk ends, and how many tokens the request has then.

        Both are the same where nothing can be said yet of what follows, or nothing does.
        """
        chunk = self[request]
        end = chunk.start + len(chunk.tokens)
        known = len(request.tokens) + chunk.samples
        return (end, end) if chunk.load_keys or known >= request.max_len else (end, known)


@dataclass(slots=True)
class _OpenPlan:
    """A plan, the requests of its chunks, and the tables that were given up since it was made."""

    plan: Plan
    requests: Sequence[Request]
    given_up: list[list[int]] = field(default_factory=list)


class OpenPlans:
    """At most two plans: one that runs, and one made ahead while it does.

    A block that a plan may still write goes back to the pool when that plan is committed, not
    before: so a request may end at any time.
    """

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self._plans: list[_OpenPlan] = []

    def open(self, plan: Plan, requests: Sequence[Request]) -> None:
        """A plan was made; requests: one for each chunk."""
        assert len(self._plans) < 2, "commit a plan before making a third"
        self._plans.append(_OpenPlan(plan, requests))

    def close(self, plan: Plan) -> Sequence[Request]:
        """A plan is committed; the requests of its chunks."""
        assert self._plans and plan is self._plans[0].plan, "commit takes the oldest plan, once"
        closed = self._plans.pop(0)
        for table in closed.given_up:
            self._pool.release(table)
        return closed.requests

    def release(self, request: Request) -> None:
        """Give up the blocks of a request, as soon as no open plan writes them."""
        for each in reversed(self._plans):
            if request in each.requests:
                each.given_up.append(request.held_blocks)
                return
        self._pool.release(request.held_blocks)

    def chunks(self) -> OpenChunks:
        """What the open plan computes of each request."""
        assert len(self._plans) < 2, "commit a plan before making a third"
        found = OpenChunks()
        for each in self._plans:
            found.update(zip(each.requests, each.plan.chunks, strict=True))
        return found

    def waiting_tables(self) -> list[list[int]]:
        """Blocks that were given up and are not back yet."""
        return [table for each in self._plans for table in each.given_up]
