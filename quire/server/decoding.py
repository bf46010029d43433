"""Turns the bytes of a request body into a typed request, or into an error that names the field."""

from __future__ import annotations

import re
from functools import cache
from typing import TypeVar

import msgspec
from starlette.requests import Request

from quire.errors import RequestError
from quire.server.protocol.support import check_refused

__all__ = ["BodyTooLargeError", "MediaTypeError", "decode", "read_body"]

RequestType = TypeVar("RequestType", bound=msgspec.Struct)

PATH = re.compile(r" - at (?:`key` in )?`\$\.?(.*?)`$")
MAX_NAME = 100  # characters of a wrong name that are repeated to the client
FIELD = re.compile(r"^Object (?:contains unknown|missing required) field `(.*?)`")


class BodyTooLargeError(RequestError):
    """The request body is larger than the operator allows."""

    status = 413


class MediaTypeError(RequestError):
    """The request body is not declared as JSON."""

    status = 415


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The body of a JSON request.

    The declared type is required because browsers let any web page send other types here.
    Raises BodyTooLargeError as soon as that is known, and MediaTypeError.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise MediaTypeError(f"the body is {media_type!r}; send content-type: application/json")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise _too_large(max_bytes)
    parts, size = [], 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > max_bytes:
            raise _too_large(max_bytes)
    return b"".join(parts)


def decode(kind: type[RequestType], body: bytes) -> RequestType:
    """The request in a body.

    Raises RequestError naming the field that is unknown, missing, mistyped or not supported.
    """
    try:
        request: RequestType = _decoder(kind).decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except msgspec.DecodeError as error:
        raise RequestError(f"the body is not JSON: {error}") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"the body is not UTF-8: {error.reason}") from None
    except RecursionError:
        raise RequestError("the body is nested too deeply") from None
    check_refused(request)
    return request


@cache
def _decoder(kind: type[RequestType]) -> msgspec.json.Decoder[RequestType]:
    return msgspec.json.Decoder(kind)


def _too_large(max_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"the body is larger than {max_bytes} bytes (--max-request-bytes)")


def _invalid(message: str) -> RequestError:
    """msgspec's message, with its path turned into the name that clients know a field by."""
    found = PATH.search(message)
    path = found[1].replace("[...]", "") if found else ""
    text = message[: found.start()] if found else message
    named = FIELD.match(text)
    if named:
        name = named[1][:MAX_NAME]
        path = f"{path}.{name}" if path else name
    if named and "unknown" in text:
        return RequestError(f"unknown field {path!r}; docs/api.md lists every field", path)
    if named:
        return RequestError(f"the field {path!r} is required", path)
    return RequestError(f"{path or 'the body'}: {text[:1].lower()}{text[1:]}", path or None)
