"""Finds stop strings in a stream of text, holding back what may be the beginning of one."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["StopStringFinder"]


class StopStringFinder:
    """Cuts a stream of text at the first stop string that completes.

    Of several that complete at the same character the longest wins.  So the result does not depend
    on how the stream is cut into pieces.  At most max(len(stop)) - 1 characters are held back.
    found: the stop string that was hit, None before.
    """

    def __init__(self, stops: Sequence[str], include_in_output: bool = False) -> None:
        self.found: str | None = None
        self._stops = tuple(stops)
        self._longest = max(map(len, stops), default=0)
        self._first_letters = frozenset(stop[0] for stop in stops)
        self._include = include_in_output
        self._held = ""

    def push(self, text: str, counts: bool = True) -> str:
        """Add text; return what is certain to be output.

        counts: False for text in which no stop string may end (that of the first `min_tokens`
        tokens).  After a hit nothing more is returned.
        """
        if not self._stops or not text:
            return text
        if self.found is not None:
            return ""
        first_end = len(self._held) + 1
        text = self._held + text
        match = self._find(text, first_end) if counts else None
        if match is not None:
            start, self.found = match
            self._held = ""
            return text[: start + len(self.found) if self._include else start]
        held_from = len(text) - self._count_held(text)
        self._held = text[held_from:]
        return text[:held_from]

    def finish(self) -> str:
        """Return the text held back: no stop string will come."""
        held, self._held = self._held, ""
        return held

    def _find(self, text: str, first_end: int) -> tuple[int, str] | None:
        """Start and text of the stop string that ends first, at `first_end` or later."""
        found = []
        for stop in self._stops:
            start = text.find(stop, max(0, first_end - len(stop)))
            if start >= 0:
                found.append((start + len(stop), start, stop))
        return min(found)[1:] if found else None

    def _count_held(self, text: str) -> int:
        """The length of the longest end of the text that begins some stop string."""
        end = text[max(0, len(text) - self._longest + 1) :]
        if self._first_letters.isdisjoint(end):
            return 0
        for start in range(len(end)):
            tail = end[start:]
            if any(stop.startswith(tail) for stop in self._stops):
                return len(tail)
        return 0
