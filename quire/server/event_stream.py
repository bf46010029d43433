"""Sends server-sent events, and ends their source when nobody reads them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from quire.errors import QuireError
from quire.server.disconnect import wait_for_disconnect
from quire.server.errors import error_detail
from quire.server.protocol.models import ErrorAnswer

__all__ = ["EventStream"]

logger = logging.getLogger(__name__)


class EventStream(Response):
    """An answer of many events, ending in [DONE].

    events: batches of values, each value one event.  end: called once, whatever happened.
    A client that takes nothing for `write_timeout` seconds is given up.  An error in `events`
    becomes the last event before [DONE], since the status is sent already.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[Sequence[msgspec.Struct]],
        end: Callable[[], None],
        write_timeout: float,
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._end = end
        self._write_timeout = write_timeout
        self._sending_since: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the events end, the client goes, or it stops reading."""
        writing = asyncio.ensure_future(self._write(send))
        watching = asyncio.ensure_future(wait_for_disconnect(receive))
        both = {writing, watching}
        try:
            while not (writing.done() or watching.done() or self._stalled()):
                await asyncio.wait(
                    both, timeout=self._write_timeout / 4, return_when=asyncio.FIRST_COMPLETED
                )
            if writing.done():
                writing.result()
        finally:
            self._end()
            writing.cancel()
            watching.cancel()

    async def _write(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code}
        await self._send(send, {**start, "headers": self.raw_headers})
        try:
            async for batch in self._events:
                if batch:
                    await self._send(send, _body(b"".join(map(_event, batch))))
        except QuireError as error:
            await self._send(send, _body(_event(ErrorAnswer(error_detail(error)))))
        except Exception as error:
            logger.exception("a stream failed")
            await self._send(send, _body(_event(ErrorAnswer(error_detail(error)))))
        await self._send(send, _body(b"data: [DONE]\n\n", more=False))

    async def _send(self, send: Send, message: dict[str, Any]) -> None:
        self._sending_since = time.monotonic()
        await send(message)
        self._sending_since = None

    def _stalled(self) -> bool:
        since = self._sending_since
        if since is None or time.monotonic() - since < self._write_timeout:
            return False
        logger.warning("a client has read nothing for %g s; dropped", self._write_timeout)
        return True


def _event(value: msgspec.Struct) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def _body(content: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": more}
