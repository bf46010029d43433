"""Small schedulers and requests, and steps of them, for tests of one rule each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quire.control.plan import Plan, Update
from quire.control.request import Request
from quire.control.scheduler import Scheduler
from quire.control.stop import StopRules


def scheduler(**changes: object) -> Scheduler:
    given = {
        "num_blocks": 64,
        "block_tokens": 4,
        "max_num_batched_tokens": 64,
        "max_num_seqs": 8,
        "lookahead_tokens": 0,
    }
    return Scheduler(**{**given, **changes})


def request(name: str, length: int, max_tokens: int = 8, **fields: object) -> Request:
    """A request whose prompt is like no other's of another name."""
    first = sum(name.encode()) * 1000
    prompt = fields.pop("prompt", range(first, first + length))
    return Request(name, prompt, StopRules(max_tokens), **fields)


def shape(plan: Plan) -> dict[str, int]:
    """Tokens per request, in order."""
    return {chunk.request_id: len(chunk.tokens) for chunk in plan.chunks}


def commit(
    each: Scheduler, plan: Plan, sampled: Mapping[str, tuple[int, ...]], *more: Any, **options: Any
) -> tuple[Update, ...]:
    """Commit a plan, given the new tokens by request."""
    columns = [sampled.get(chunk.request_id, ()) for chunk in plan.chunks]
    return each.commit(plan, columns, *more, **options)


def step(each: Scheduler, now: float = 0.0, token: int = 99) -> tuple[Update, ...]:
    plan = each.plan(now)
    each.check()
    updates = commit(each, plan, {c.request_id: (token,) for c in plan.chunks if c.samples})
    each.check()
    return updates


def finish(each: Scheduler, limit: int = 1000) -> list[str]:
    """Run to the end; the ids in the order in which they finished."""
    ended: list[str] = []
    while each.has_work and (limit := limit - 1):
        ended += [update.request_id for update in step(each) if update.finish_reason]
    assert limit, "it does not end"
    return ended


class Always:
    """Guesses the same tokens for everyone, and keeps what it is told."""

    def __init__(self, *draft: int) -> None:
        self.draft = draft
        self.asked: list[tuple[list[str], int, int]] = []
        self.told: list[tuple[Any, ...]] = []

    def propose(self, requests: Sequence[Request], num_tokens: int, room: int) -> list[Any]:
        self.asked.append(([request.id for request in requests], num_tokens, room))
        return [self.draft[: room // len(requests)] for _ in requests]

    def note(self, request: Request, num_drafted: int, num_accepted: int) -> None:
        self.told.append((request.id, num_drafted, num_accepted))

    def observe(self, num_tokens: int, seconds: float) -> None:
        self.told.append((num_tokens, seconds))

    def finish(self, request: Request) -> None:
        self.told.append((request.id,))
