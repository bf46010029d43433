"""Lets only holders of a key in: on every path but the probes, known or not."""

from __future__ import annotations

import hashlib
import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from quire.server.errors import error_answer
from quire.server.route_path import route_path

__all__ = ["RequireKey"]

PROBES = ("/health", "/live", "/ready")
"""What a supervisor asks without a key; the answers say no more than whether the engine moves."""


class RequireKey:
    """Middleware that wants `Authorization: Bearer KEY`; comparing takes the same time for all."""

    def __init__(self, app: ASGIApp, keys: tuple[str, ...]) -> None:
        self._app = app
        self._digests = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401."""
        if scope["type"] != "http" or route_path(scope) in PROBES or self._knows(scope):
            await self._app(scope, receive, send)
            return
        message = "no valid API key; send the header Authorization: Bearer KEY"
        headers = {"www-authenticate": "Bearer", "connection": "close"}
        await error_answer(401, message, headers=headers)(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        kind, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            return False
        given = _digest(key.strip().encode("latin-1"))
        return sum(hmac.compare_digest(given, known) for known in self._digests) > 0


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
