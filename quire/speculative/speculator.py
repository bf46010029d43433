"""Decides how many tokens to guess for whom: as many as the step's time is likely to repay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from quire.control.request import Request
from quire.speculative.acceptance import Acceptance
from quire.speculative.proposer import Method, Proposer
from quire.speculative.step_cost import StepCost

__all__ = ["Speculator"]


@dataclass(slots=True)
class _Guessing:
    """What is kept of one request."""

    proposer: Proposer
    acceptance: Acceptance = field(default_factory=Acceptance)


class Speculator:
    """A Drafter: a method that guesses, what it costs to check, and how often it was right.

    A draft's k-th guess is right with chance a^k, where a is the request's smoothed acceptance.  Of
    all guesses for all requests the likeliest are taken, as many as make the most tokens a second
    by the measured cost of a step.  So a batch that is bound by arithmetic gets none, and neither
    does a request whose guesses are wrong.  Guesses never change what is generated, so it does no
    harm that the decision depends on the time of day.

    most: guesses for one request in one step.
    """

    def __init__(self, method: Method, most: int, cost: StepCost | None = None) -> None:
        self._method = method
        self._most = most
        self._cost = cost or StepCost()
        self._guessing: dict[str, _Guessing] = {}

    def propose(self, requests: Sequence[Request], num_tokens: int, room: int) -> list[list[int]]:
        """See Drafter."""
        guessing = [self._find(request) for request in requests]
        drafts = self._drafts(guessing, num_tokens, room)
        for each, draft in zip(guessing, drafts, strict=True):
            if not draft:
                each.acceptance.rest()
        return drafts

    def note(self, request: Request, num_drafted: int, num_accepted: int) -> None:
        """See Drafter."""
        self._find(request).acceptance.note(num_drafted, num_accepted)

    def observe(self, num_tokens: int, seconds: float) -> None:
        """See Drafter."""
        self._cost.observe(num_tokens, seconds)

    def finish(self, request: Request) -> None:
        """See Drafter."""
        self._guessing.pop(request.id, None)
        self._method.finish(request)

    def _drafts(self, guessing: Sequence[_Guessing], num_tokens: int, room: int) -> list[list[int]]:
        most = min(self._most, room)
        best = max((each.acceptance.chance for each in guessing), default=0.0)
        if not self._cost.best_count(num_tokens, [best] * (most * len(guessing))):
            return [[] for _ in guessing]  # not even if every guess were as good as the best
        drafts = [each.proposer.propose(most) for each in guessing]
        ranked = sorted(
            (-(each.acceptance.chance ** (place + 1)), place, owner)
            for owner, (each, draft) in enumerate(zip(guessing, drafts, strict=True))
            for place in range(len(draft))
        )[:room]
        count = self._cost.best_count(num_tokens, [-chance for chance, _, _ in ranked])
        kept = Counter(owner for _, _, owner in ranked[:count])
        return [draft[: kept[owner]] for owner, draft in enumerate(drafts)]

    def _find(self, request: Request) -> _Guessing:
        if request.id not in self._guessing:
            self._guessing[request.id] = _Guessing(self._method.start(request))
        return self._guessing[request.id]
