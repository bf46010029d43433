"""GET /health, /live and /ready: whether the engine moves, told by its steps, not by a trial."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import Response

from quire.server.errors import error_answer, json_response
from quire.server.state import ServerState

__all__ = ["find_fault", "show_health", "show_ready"]


async def show_health(state: ServerState, request: Request) -> Response:
    """Answer GET /health and GET /live: 200, or 503 with the cause."""
    return _answer(find_fault(state))


async def show_ready(state: ServerState, request: Request) -> Response:
    """Answer GET /ready: as /health, and 503 once the server is asked to stop."""
    return _answer("the server is shutting down" if state.stopping else find_fault(state))


def find_fault(state: ServerState) -> str | None:
    """Why the engine is of no use, or None when it steps or has nothing to do."""
    error = state.engine.error
    if error is not None:
        return f"the engine died: {type(error).__name__}: {error}"
    metrics = state.metrics
    if metrics.num_active == 0:
        return None
    silent = time.monotonic() - max(metrics.busy_since, state.engine.stats().heartbeat_s)
    if silent > state.config.stall_timeout:
        return f"the engine has work and has not stepped for {silent:.0f} s"
    return None


def _answer(fault: str | None) -> Response:
    if fault is None:
        return json_response({"status": "ok"})
    return error_answer(503, fault, code="unhealthy")
