"""Adds guesses at the tokens to come to a plan, and counts the ones that were right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from quire.control.blocks import BlockPool
from quire.control.limits import Limits
from quire.control.plan import Chunk, Plan
from quire.control.request import Request

__all__ = ["Drafter", "Drafting"]


class Drafter(Protocol):
    """Guesses what requests will say next; a wrong guess costs time and never changes an output."""

    def propose(
        self, requests: Sequence[Request], num_tokens: int, room: int
    ) -> Sequence[Sequence[int]]:
        """The guessed next tokens of each request, empty for none; at most `room` tokens in all.

        num_tokens: what the plan computes without guesses.
        """
        ...

    def note(self, request: Request, num_drafted: int, num_accepted: int) -> None:
        """Learn that the first num_accepted of num_drafted guesses were right."""
        ...

    def observe(self, num_tokens: int, seconds: float) -> None:
        """Learn how long a step of so many tokens took."""
        ...

    def finish(self, request: Request) -> None:
        """Forget a request that is over."""
        ...


class Drafting:
    """Puts a drafter's guesses where the plan leaves room; without a drafter, nothing.

    Guesses take only what all else leaves, of the token budget and of the blocks: no request is
    preempted for one, and the blocks reserved for what runs stay reserved.  num_drafts,
    num_draft_tokens, num_accepted_tokens: see SchedulerStats.
    """

    def __init__(self, drafter: Drafter | None, limits: Limits, pool: BlockPool) -> None:
        self.num_drafts = self.num_draft_tokens = self.num_accepted_tokens = 0
        self._drafter = drafter
        self._limits = limits
        self._pool = pool

    def extend(
        self, chunks: list[Chunk], planned: Sequence[Request], running: Sequence[Request], room: int
    ) -> None:
        """Append guesses, at most `room` in all, to those of the planned chunks that sample."""
        if self._drafter is None or room <= 0:
            return
        places = [
            (index, request)
            for index, request in enumerate(planned)
            if chunks[index].samples and request.allow_drafts
        ]
        num_tokens = self._limits.max_num_batched_tokens - room
        drafts = self._drafter.propose([request for _, request in places], num_tokens, room)
        for (index, request), draft in zip(places, drafts, strict=True):
            draft = draft[: self._take_room(request, running, len(draft))]
            if draft:
                tokens = [*chunks[index].tokens, *draft]
                chunks[index] = chunks[index]._replace(tokens=tokens, num_drafts=len(draft))

    def count(self, chunk: Chunk, request: Request, new_tokens: Sequence[int]) -> int:
        """How many guesses of a chunk that was run are right: all new tokens but the last."""
        if self._drafter is None or not chunk.num_drafts:
            return 0
        right = len(new_tokens) - 1
        self.num_drafts += 1
        self.num_draft_tokens += chunk.num_drafts
        self.num_accepted_tokens += right
        self._drafter.note(request, chunk.num_drafts, right)
        return right

    def observe(self, plan: Plan, seconds: float) -> None:
        """Tell the drafter how long the plan took to run."""
        if self._drafter is not None and seconds > 0:
            self._drafter.observe(plan.num_tokens, seconds)

    def finish(self, request: Request) -> None:
        """Tell the drafter that a request is over."""
        if self._drafter is not None:
            self._drafter.finish(request)

    def _take_room(self, request: Request, running: Sequence[Request], wanted: int) -> int:
        """How many of the wanted guesses the cache has room for; takes unreserved blocks.

        The last output token is never guessed: nothing would follow from its being right.
        """
        size, table, known = self._limits.block_tokens, request.block_table, len(request.tokens)
        wanted = max(0, min(wanted, request.max_len - known - 1))
        missing = -(-(known + wanted) // size) - len(table)
        if missing > 0:
            others = (each for each in running if each is not request)
            free = self._pool.num_free - sum(map(self._limits.num_blocks_reserved, others))
            table += self._pool.take(max(0, min(missing, free)))
        return min(wanted, len(table) * size - known)
