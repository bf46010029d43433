"""The proposers against searches through the whole text that a reader can check."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from quire.control.request import Request
from quire.control.stop import StopRules
from quire.speculative import ngram, suffix
from quire.speculative.ngram import NgramProposer
from quire.speculative.suffix import SEPARATOR, SuffixMethod, SuffixProposer
from quire.speculative.token_chains import CONTEXT, TokenChains

texts = st.lists(st.integers(0, 2), max_size=60) | st.lists(st.integers(0, 9), max_size=40)


def searched(text: list[int], most: int) -> list[int]:
    """Prompt lookup by looking everywhere, from the end."""
    for length in range(ngram.LONGEST, ngram.SHORTEST - 1, -1):
        for position in range(len(text) - 1, length - 1, -1):
            if text[position - length : position] == text[-length:] and length < len(text):
                grown = list(text)
                while len(grown) < len(text) + most:
                    grown.append(grown[position + len(grown) - len(text)])
                return grown[len(text) :]
    return []


def voted(text: list[int], tail: list[int], most: int) -> tuple[float, list[int]]:
    """Suffix speculation by looking everywhere.  The text may be another one than the tail's."""
    ends = [
        position
        for position in range(len(text) - 1, CONTEXT - 1, -1)
        if text[position - CONTEXT : position] == tail[-CONTEXT:]
    ][: suffix.MOST_PLACES]
    lengths = {}
    for position in ends:
        same = [
            n for n in range(1, len(tail) + 1) if text[max(0, position - n) : position] == tail[-n:]
        ]
        lengths[position] = min(max(same), suffix.LONGEST_MATCH)
    longest = max(lengths.values(), default=0)
    voters = [position for position in ends if lengths[position] == longest]
    first, expected, draft = len(voters), 0.0, []
    for ahead in range(min(most, longest)):
        says = {p: text[p + ahead % (len(text) - p)] for p in voters}
        votes = Counter(says.values())
        winner = next(says[p] for p in voters if votes[says[p]] == max(votes.values()))
        if winner == SEPARATOR or votes[winner] / first < suffix.LEAST_PATH:
            break
        draft.append(winner)
        expected += votes[winner] / first
        voters = [p for p in voters if says[p] == winner]
    return expected, draft


@settings(max_examples=300, deadline=None)
@given(text=texts, most=st.integers(1, 9), asked=st.sets(st.integers(0, 60)))
def test_prompt_lookup_finds_what_a_search_finds(text: list[int], most: int, asked: set[int]):
    """Whenever it is asked while the text grows."""
    tokens: list[int] = []
    proposer = NgramProposer(tokens)
    for count, token in enumerate(text, 1):
        tokens.append(token)
        if count in asked or count == len(text):
            assert proposer.propose(most) == searched(tokens, most)


@settings(max_examples=300, deadline=None)
@given(text=texts, most=st.integers(1, 9), asked=st.sets(st.integers(0, 60)))
def test_suffixes_vote_as_in_a_search(text: list[int], most: int, asked: set[int]):
    tokens: list[int] = []
    proposer = SuffixProposer(tokens)
    for count, token in enumerate(text, 1):
        tokens.append(token)
        if count in asked or count == len(text):
            assert proposer.propose(most) == voted(tokens, tokens, most)[1]


@settings(max_examples=300, deadline=None)
@given(
    outputs=st.lists(texts, max_size=8),
    prompt=st.lists(st.integers(0, 2), min_size=1, max_size=12),
    kept=st.integers(1, 120),
)
def test_the_history_votes_as_well(outputs: list[list[int]], prompt: list[int], kept: int):
    method, known = SuffixMethod(kept), list[int]()
    for output in outputs:
        finish(method, [7], output)
        known += [*output[-kept:], SEPARATOR] if output else []
    known = known[-kept:]
    own, from_others = voted(prompt, prompt, 5), voted(known, prompt, 5)
    expected = from_others if from_others[0] > own[0] else own
    assert method.start(request(prompt)).propose(5) == expected[1]


def request(prompt: list[int], **fields: bytes) -> Request:
    return Request("a", prompt, StopRules(1000), **fields)


def finish(method: SuffixMethod, prompt: list[int], output: list[int], **fields: bytes) -> None:
    """Let a request with this output live and end."""
    one = request(prompt, **fields)
    method.start(one)
    one.tokens += output
    method.finish(one)


# --- what is written about them, by hand


def test_the_longest_and_then_the_latest_match_counts() -> None:
    text = [1, 2, 3, 4, 50, 9, 2, 3, 4, 60, 9, 9, 3, 4, 70, 8, 1, 2, 3, 4]
    assert NgramProposer(text).propose(1) == [50]
    assert NgramProposer(text[:16] + [8, 2, 3, 4]).propose(1) == [60]
    assert NgramProposer(text[:16] + [8, 8, 3, 4]).propose(1) == [70]
    assert NgramProposer(text[:16] + [8, 8, 8, 4]).propose(1) == []


@pytest.mark.parametrize("kind", [NgramProposer, SuffixProposer])
def test_a_circle_is_gone_round(kind: type[NgramProposer] | type[SuffixProposer]) -> None:
    assert kind([1, 2, 3] * 4).propose(7) == [1, 2, 3, 1, 2, 3, 1]


def test_the_majority_wins_and_a_divided_vote_ends_the_draft() -> None:
    endings = [(5,), (6, 0), (6, 1), (7,), (8,)]
    text = [token for i, end in enumerate(endings) for token in (20 + i, 2, 3, 4, *end)]
    assert SuffixProposer([*text, 2, 3, 4]).propose(3) == [6], "two of five, and then one of five"
    del text[-5:]
    assert SuffixProposer([*text, 2, 3, 4]).propose(3) == [6, 1, 23], "the latest of equals"


def test_a_draft_is_no_longer_than_its_match() -> None:
    text = [*range(10, 60), 7, *range(20, 24)]
    assert SuffixProposer(text).propose(30) == [24, 25, 26, 27]


def test_a_salt_separates() -> None:
    secret = [5, 6, 7, 8, 9, 10]
    method = SuffixMethod()
    finish(method, [1], secret, cache_salt=b"tenant")
    assert method.start(request([5, 6, 7])).propose(2) == []
    finish(method, [1], secret)
    assert method.start(request([5, 6, 7])).propose(2) == [8, 9]
    assert method.start(request([5, 6, 7], cache_salt=b"tenant")).propose(2) == []


def test_the_history_is_bounded() -> None:
    method = SuffixMethod(100)
    for first in range(0, 100_000, 50):
        finish(method, [1], list(range(first, first + 50)))
    chains = method._history
    assert len(chains) <= 100
    assert len(chains.tokens) <= 2 * 151 and len(chains._before) == len(chains.tokens)
    assert len(chains._latest) <= 100


@settings(max_examples=200, deadline=None)
@given(steps=st.lists(st.tuples(st.lists(st.integers(0, 2), max_size=9), st.integers(0, 9))))
def test_chains_find_every_place_that_is_not_forgotten(steps: list[tuple[list[int], int]]):
    chains, text = TokenChains([]), list[int]()
    for added, forgotten in steps:
        chains.tokens += added
        text += added
        chains.update()
        forgotten = min(forgotten, len(text))
        chains.forget(forgotten)
        text = text[forgotten:]
        assert len(chains) == len(text)
        tail = text[-CONTEXT:]
        start = len(chains.tokens) - len(text)
        found = [position - start for position in chains.find(tail, 99)]
        assert found == [
            position
            for position in range(len(text) - 1, CONTEXT - 1, -1)
            if text[position - CONTEXT : position] == tail
        ]
