"""Prompt lookup: what followed the last tokens when they stood in this text before."""

from __future__ import annotations

from quire.control.request import Request
from quire.speculative.proposer import Proposer

__all__ = ["NgramMethod", "NgramProposer"]

LONGEST, SHORTEST = 4, 2
"""Tokens that must stand there again: four, else three, else two."""


class NgramProposer:
    """Finds the most recent earlier place of the last tokens, the longest match first.

    Costs a dictionary entry per length and token, and constant time per token.
    tokens: a list that its owner appends to.
    Source: Saxena, "Prompt lookup decoding" (2023); Leviathan et al., arXiv:2211.17192.
    """

    def __init__(self, tokens: list[int]) -> None:
        self._tokens = tokens
        self._num_indexed = 0
        self._after: list[dict[tuple[int, ...], int]] = [{} for _ in range(LONGEST + 1)]

    def propose(self, most: int) -> list[int]:
        """See Proposer.  A match that reaches the end of the text is repeated."""
        self._index()
        tokens = self._tokens
        for length in range(min(LONGEST, len(tokens) - 1), SHORTEST - 1, -1):
            position = self._after[length].get(tuple(tokens[-length:]))
            if position is not None:
                period = len(tokens) - position
                return [tokens[position + place % period] for place in range(most)]
        return []

    def _index(self) -> None:
        """Note, for every token that is new, what stands before it."""
        for position in range(self._num_indexed, len(self._tokens)):
            for length in range(SHORTEST, min(LONGEST, position) + 1):
                self._after[length][tuple(self._tokens[position - length : position])] = position
        self._num_indexed = len(self._tokens)


class NgramMethod:
    """Every request by itself."""

    def start(self, request: Request) -> Proposer:
        """See Method."""
        return NgramProposer(request.tokens)

    def finish(self, request: Request) -> None:
        """Nothing is remembered."""
