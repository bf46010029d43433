"""Counts every HTTP exchange by method, route and status."""

from __future__ import annotations

from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quire.server.prometheus import Counter
from quire.server.route_path import route_path

__all__ = ["HttpMeter"]

METHODS = {"GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"}


class HttpMeter:
    """Middleware; paths that are no route count as "other", so that clients cannot make labels."""

    def __init__(self, app: ASGIApp, counter: Counter, paths: Collection[str]) -> None:
        self._app = app
        self._counter = counter
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and note the status of its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = route_path(scope)
        handler = path if path in self._paths else "other"
        method = scope["method"] if scope["method"] in METHODS else "other"

        async def counting_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._counter.add(1, method, handler, str(message["status"]))
            await send(message)

        await self._app(scope, receive, counting_send)
