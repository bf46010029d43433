"""Turns every failure into an answer in OpenAI's error shape."""

from __future__ import annotations

import math

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from quire.errors import EngineError, QueueFullError, RequestError
from quire.server.protocol.models import ErrorAnswer, ErrorDetail

__all__ = ["EXCEPTION_HANDLERS", "error_answer", "error_detail", "json_response"]

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}
CODES = {401: "invalid_api_key", 413: "body_too_large", 429: "queue_full", 503: "unavailable"}


def json_response(
    answer: object, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """An answer as JSON."""
    return Response(msgspec.json.encode(answer), status, headers, "application/json")


def error_answer(
    status: int,
    message: str,
    param: str | None = None,
    code: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """An error as HTTP, in OpenAI's shape."""
    return json_response(ErrorAnswer(_detail(status, message, param, code)), status, headers)


def error_detail(error: Exception) -> ErrorDetail:
    """An error as part of a stream whose status is already sent."""
    if isinstance(error, RequestError):
        return _detail(error.status, str(error), error.param)
    return _detail(500, _cause(error))


def _detail(
    status: int, message: str, param: str | None = None, code: str | None = None
) -> ErrorDetail:
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return ErrorDetail(message, kind, param, code or CODES.get(status))


def _cause(error: BaseException) -> str:
    """The message of an engine failure with its root cause; of other failures, nothing."""
    if not isinstance(error, EngineError):
        return "internal error; the server's log has the traceback"
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    return str(error) if root is error else f"{error}: {type(root).__name__}: {root}"


async def _answer_request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    headers = {}
    if isinstance(error, QueueFullError):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.status == 413:
        headers["connection"] = "close"  # the rest of the body is not read
    code = "model_not_found" if error.status == 404 and error.param == "model" else None
    return error_answer(error.status, str(error), error.param, code, headers)


async def _answer_engine_error(request: Request, error: Exception) -> Response:
    return error_answer(500, _cause(error), code="engine_error")


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail.lower()}; GET /docs lists routes"
    return error_answer(error.status_code, message, headers=dict(error.headers or {}))


async def _answer_nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # what nginx logs; the client has gone and does not see it


async def _answer_failure(request: Request, error: Exception) -> Response:
    return error_answer(500, _cause(error), code="internal_error")


EXCEPTION_HANDLERS = {
    RequestError: _answer_request_error,
    EngineError: _answer_engine_error,
    HTTPException: _answer_http_exception,
    ClientDisconnect: _answer_nobody,
    Exception: _answer_failure,
}
