"""Finds where the last few tokens stood before, in a text that grows and may forget its start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

__all__ = ["CONTEXT", "TokenChains"]

CONTEXT = 2
"""Tokens that must be the same for a place to count as an occurrence."""


class TokenChains:
    """Hash chains over a list of tokens, as LZ77 compressors have them.

    A dictionary leads from CONTEXT tokens to the position after their latest occurrence, and an
    array from each position to the one before it.  Adding and forgetting a token take constant
    time; a token costs about 200 bytes.  tokens: a list that its owner appends to.
    """

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = tokens
        self._before: list[int] = []
        self._latest: dict[tuple[int, ...], int] = {}
        self._start = 0

    def update(self) -> None:
        """Index what was appended since the last call."""
        for position in range(len(self._before), len(self.tokens)):
            before = -1
            if position >= self._start + CONTEXT:
                key = self._key(position)
                before = self._latest.get(key, -1)
                self._latest[key] = position
            self._before.append(before)

    def find(self, tail: Sequence[int], most: int) -> Iterator[int]:
        """The positions after the latest `most` occurrences of the tail's last CONTEXT tokens.

        The latest first, and none with nothing behind it.
        """
        position = self._latest.get(tuple(tail[-CONTEXT:]), -1)
        while position >= self._start + CONTEXT and most > 0:
            yield position
            position, most = self._before[position], most - 1

    def match_length(self, position: int, tail: Sequence[int], most: int) -> int:
        """How many tokens before a position are those at the end of the tail, at most `most`."""
        most = min(most, len(tail), position - self._start)
        length = 0
        while length < most and self.tokens[position - 1 - length] == tail[-1 - length]:
            length += 1
        return length

    def forget(self, count: int) -> None:
        """Drop the first `count` tokens that are still known; the list is cut when half is dead."""
        start = self._start + count
        for position in range(self._start + CONTEXT, start + CONTEXT):
            key = self._key(position)
            if self._latest.get(key) == position:
                del self._latest[key]
        self._start = start
        if start > len(self.tokens) // 2:
            self._cut(start)

    def __len__(self) -> int:
        return len(self.tokens) - self._start

    def _cut(self, start: int) -> None:
        del self.tokens[:start]
        self._before = [max(-1, each - start) for each in self._before[start:]]
        self._latest = {key: position - start for key, position in self._latest.items()}
        self._start = 0

    def _key(self, position: int) -> tuple[int, ...]:
        return tuple(self.tokens[position - CONTEXT : position])
