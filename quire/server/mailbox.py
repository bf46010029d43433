"""Holds deltas until the client takes them; those of one completion become one delta."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from quire.outputs import Delta, TokenLogprobs

__all__ = ["Mailbox"]

MAX_WAITING = 256  # deltas of one completion that are kept apart


class Mailbox:
    """Several sources put, one reader takes.

    A slow reader finds few large deltas, not many small ones, so what waits here is never much
    more than the text itself.
    """

    def __init__(self, num_sources: int) -> None:
        self._open_sources = num_sources
        self._waiting: dict[tuple[int, int], list[Delta]] = {}
        self._error: BaseException | None = None
        self._changed = asyncio.Event()

    def put(self, source: int, delta: Delta) -> None:
        """Add a delta of one source."""
        waiting = self._waiting.setdefault((source, delta.index), [])
        waiting.append(delta)
        if len(waiting) > MAX_WAITING:
            waiting[:] = [_merge(waiting)]
        self._changed.set()

    def close_source(self, error: BaseException | None = None) -> None:
        """One source has no more deltas; an error ends all of them."""
        self._open_sources -= 1
        self._error = self._error or error
        self._changed.set()

    async def take(self) -> list[tuple[int, Delta]]:
        """Everything that waits, with its source; nothing only when every source is closed.

        Raises the error of a source once what came before it has been taken.
        """
        while not (self._waiting or self._error or self._open_sources <= 0):
            await self._change()
        if self._error and not self._waiting:
            raise self._error
        return self._empty()

    async def take_all(self) -> list[tuple[int, Delta]]:
        """One delta per completion, in order, when every source is closed.

        Raises the error of a source at once.
        """
        while not self._error and self._open_sources > 0:
            await self._change()
        if self._error:
            raise self._error
        return sorted(self._empty(), key=lambda each: (each[0], each[1].index))

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _empty(self) -> list[tuple[int, Delta]]:
        taken = [(source, _merge(deltas)) for (source, _), deltas in self._waiting.items()]
        self._waiting.clear()
        return taken


def _merge(deltas: Sequence[Delta]) -> Delta:
    if len(deltas) == 1:
        return deltas[0]
    logprobs: tuple[TokenLogprobs, ...] | None = None
    if any(delta.logprobs is not None for delta in deltas):
        logprobs = tuple(chain.from_iterable(delta.logprobs or () for delta in deltas))
    of_prompt = (each.prompt_logprobs for each in deltas if each.prompt_logprobs is not None)
    return replace(
        deltas[-1],
        text="".join(delta.text for delta in deltas),
        token_ids=tuple(chain.from_iterable(delta.token_ids for delta in deltas)),
        logprobs=logprobs,
        prompt_logprobs=next(of_prompt, None),
    )
