"""Runs the texts of one HTTP request together: counted, and stopped together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from starlette.requests import Request

from quire.errors import QueueFullError, RequestError
from quire.server.disconnect import unless_disconnected
from quire.server.metrics import ServerMetrics
from quire.server.state import ServerState

__all__ = ["run_together"]

Result = TypeVar("Result")


async def run_together(
    state: ServerState,
    request: Request,
    work: Sequence[Coroutine[Any, Any, Result]],
    field: str,
) -> list[Result]:
    """Everything at once, in the order given; all of it is stopped when one part fails.

    Raises RequestError, naming the field, for more than may wait at once, and QueueFullError (HTTP
    503) for what the server does not finish before it stops.
    """
    limit = state.engine.config.max_num_queued_reqs
    if state.stopping or len(work) > limit:
        for each in work:
            each.close()
        state.refuse_if_stopping()
        raise RequestError(f"{len(work)} texts are more than the {limit} that may wait", field)
    texts = _Texts(state.metrics, work)
    state.generations.add(texts)
    try:
        return await unless_disconnected(request, texts.results())
    finally:
        state.generations.discard(texts)
        texts.cancel()


class _Texts(Generic[Result]):
    """The texts of one request, each in a task of its own."""

    def __init__(self, metrics: ServerMetrics, work: Sequence[Coroutine[Any, Any, Result]]) -> None:
        self._metrics = metrics
        self._stopped = False
        self._tasks = [asyncio.ensure_future(each) for each in work]
        for task in self._tasks:
            metrics.begin()
            task.add_done_callback(partial(self._note, time.monotonic()))

    async def results(self) -> list[Result]:
        """What came of each."""
        try:
            return await asyncio.gather(*self._tasks)
        except asyncio.CancelledError:
            if not self._stopped:
                raise
            raise QueueFullError("the server is shutting down", status=503) from None

    def stop(self) -> None:
        """End early, as the server stops."""
        self._stopped = True
        self.cancel()

    def cancel(self) -> None:
        """Drop what still runs; harmless when nothing does."""
        for task in self._tasks:
            task.cancel()

    def _note(self, began: float, task: asyncio.Future[Result]) -> None:
        """Count the end of one text; what was refused is no text."""
        self._metrics.end()
        error = None if task.cancelled() else task.exception()
        if isinstance(error, RequestError):
            return
        reason = "abort" if task.cancelled() else "stop" if error is None else "error"
        self._metrics.success.add(1, reason)
        if reason == "stop":
            self._metrics.whole_s.observe(time.monotonic() - began)
