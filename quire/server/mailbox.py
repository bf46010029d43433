"""Holds deltas until the client takes them; what waits for the same completion becomes one delta."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from quire.outputs import Delta

__all__ = ["Mailbox"]


class Mailbox:
    """Several sources put, one reader takes.

    A slow reader finds few large deltas, not many small ones, so what waits here is never more
    than the text itself.
    """

    def __init__(self, num_sources: int) -> None:
        self._open_sources = num_sources
        self._waiting: dict[tuple[int, int], Delta] = {}
        self._error: Exception | None = None
        self._changed = asyncio.Event()

    def put(self, source: int, delta: Delta) -> None:
        """Add a delta of one source."""
        key = (source, delta.index)
        earlier = self._waiting.get(key)
        self._waiting[key] = delta if earlier is None else _merge(earlier, delta)
        self._changed.set()

    def close_source(self, error: Exception | None = None) -> None:
        """One source has no more deltas; an error ends all of them."""
        self._open_sources -= 1
        self._error = self._error or error
        self._changed.set()

    async def take(self) -> list[tuple[int, Delta]]:
        """Everything that waits, with its source; nothing only when every source is closed.

        Raises the error of a source once what came before it has been taken.
        """
        while not (self._waiting or self._error or self._open_sources <= 0):
            self._changed.clear()
            await self._changed.wait()
        if self._error and not self._waiting:
            raise self._error
        taken = [(source, delta) for (source, _), delta in self._waiting.items()]
        self._waiting.clear()
        return taken


def _merge(first: Delta, second: Delta) -> Delta:
    logprobs = second.logprobs
    if first.logprobs is not None:
        logprobs = first.logprobs + (second.logprobs or ())
    return replace(
        second,
        text=first.text + second.text,
        token_ids=first.token_ids + second.token_ids,
        logprobs=logprobs,
        prompt_logprobs=first.prompt_logprobs or second.prompt_logprobs,
    )
