"""The plans that were made and are not committed yet, and the blocks that wait for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from quire.control.blocks import BlockPool
from quire.control.plan import Chunk, Plan
from quire.control.request import Request

__all__ = ["OpenPlans"]


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

    def chunks(self) -> dict[Request, Chunk]:
        """What the open plan computes of each request; nothing where none is open."""
        assert len(self._plans) < 2, "commit a plan before making a third"
        return {
            request: chunk
            for each in self._plans
            for request, chunk in zip(each.requests, each.plan.chunks, strict=True)
        }

    def waiting_tables(self) -> list[list[int]]:
        """Blocks that were given up and are not back yet."""
        return [table for each in self._plans for table in each.given_up]
