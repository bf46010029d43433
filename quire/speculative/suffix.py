"""Suffix speculation: earlier places with the same past vote on how a text goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from quire.control.request import Request
from quire.speculative.proposer import Proposer
from quire.speculative.token_chains import TokenChains

__all__ = ["SuffixMethod", "SuffixProposer"]

HISTORY_TOKENS = 65_536
"""Output tokens of finished requests that are remembered: about 13 MB."""
LONGEST_MATCH = 32
"""Longer common pasts count as equal."""
MOST_PLACES = 32
"""The latest places of the last tokens that are looked at."""
LEAST_PATH = 0.25
"""A draft ends where fewer than this share of the votes it began with still agree."""
SEPARATOR = -1
"""Stands between the outputs in the history; no token."""


class SuffixProposer:
    """Asks the text itself and the history of outputs; the one that expects more right wins.

    Of the places that have the longest past in common with the end of the text, the majority says
    what comes next, the places that agree vote on, and the share still agreeing estimates how
    likely the draft is right so far.  A draft is no longer than the past that is in common.
    Source: Oliaro et al., "SuffixDecoding", arXiv:2411.04975, with hash chains for suffix trees.
    """

    def __init__(self, tokens: list[int], history: TokenChains | None = None) -> None:
        self._text = TokenChains(tokens)
        self._history = history

    def propose(self, most: int) -> list[int]:
        """See Proposer."""
        self._text.update()
        tail = self._text.tokens[-LONGEST_MATCH:]
        expected, draft = _vote(self._text, tail, most)
        if self._history is not None:
            other_expected, other = _vote(self._history, tail, most)
            draft = other if other_expected > expected else draft
        return draft


class SuffixMethod:
    """Remembers the latest outputs of requests, for those that come after.

    Requests with a cache salt neither learn from others nor teach them: how fast an answer comes
    would tell what others were answered.
    """

    def __init__(self, history_tokens: int = HISTORY_TOKENS) -> None:
        self._most = history_tokens
        self._history = TokenChains([])

    def start(self, request: Request) -> Proposer:
        """See Method."""
        return SuffixProposer(request.tokens, None if request.cache_salt else self._history)

    def finish(self, request: Request) -> None:
        """Remember the output."""
        if request.cache_salt or not request.num_output:
            return
        self._history.tokens += [*request.output[-self._most :], SEPARATOR]
        self._history.update()
        self._history.forget(max(0, len(self._history) - self._most))


def _vote(chains: TokenChains, tail: Sequence[int], most: int) -> tuple[float, list[int]]:
    """How many tokens of a draft to expect to be right, and the draft."""
    places = list(chains.find(tail, MOST_PLACES))
    lengths = [chains.match_length(place, tail, LONGEST_MATCH) for place in places]
    longest = max(lengths, default=0)
    voters = [place for place, length in zip(places, lengths, strict=True) if length == longest]
    num_voters, expected, draft = len(voters), 0.0, list[int]()
    for ahead in range(min(most, longest)):
        says = [_token_ahead(chains.tokens, place, ahead) for place in voters]
        token, count = Counter(says).most_common(1)[0]
        if token == SEPARATOR or count < LEAST_PATH * num_voters:
            break
        draft.append(token)
        expected += count / num_voters
        voters = [place for place, said in zip(voters, says, strict=True) if said == token]
    return expected, draft


def _token_ahead(tokens: Sequence[int], place: int, ahead: int) -> int:
    """A token behind a place; past the end of the text it is what the place itself would say."""
    return tokens[place + ahead % (len(tokens) - place)]
