"""A small HTTP client for one purpose: to send a request and see each line when it arrives.

One connection per request, no redirects, no proxy, no compression.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from quire.errors import ConfigError, QuireError

__all__ = ["HttpError", "Server"]


class HttpError(QuireError):
    """The server answered with another status than 200; 0 when it did not speak HTTP."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Server:
    """Where requests go.  headers: what every request carries."""

    host: str
    port: int
    prefix: str = ""
    tls: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def at(cls, url: str, headers: Mapping[str, str]) -> Server:
        """The server of a base URL.  Raises ConfigError for anything else."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise ConfigError(f"--base-url is {url!r}; give one such as http://127.0.0.1:8000")
        tls = parts.scheme == "https"
        port = parts.port or (443 if tls else 80)
        return cls(parts.hostname, port, parts.path.rstrip("/"), tls, headers)

    @property
    def url(self) -> str:
        """Its address, for people."""
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}{self.prefix}"

    async def get_text(self, path: str) -> str:
        """What a path answers with.  Raises HttpError, or OSError without a connection."""
        async with self._exchange("GET", path, b"") as pieces:
            return b"".join([piece async for piece in pieces]).decode()

    async def get_json(self, path: str) -> Any:
        """The JSON a path answers with.  Raises as get_text does, ValueError if it is no JSON."""
        return json.loads(await self.get_text(path))

    async def post_lines(self, path: str, body: Any) -> AsyncGenerator[bytes, None]:
        """Each line of the answer to a JSON request, as soon as it is complete.

        Raises HttpError, or OSError when there is no connection.
        """
        rest = b""
        async with self._exchange("POST", path, json.dumps(body).encode()) as pieces:
            async for piece in pieces:
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    yield line.rstrip(b"\r")
        if rest:
            yield rest

    @asynccontextmanager
    async def _exchange(
        self, method: str, path: str, body: bytes
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """One request; yields the pieces of its answer's body."""
        context = ssl.create_default_context() if self.tls else None
        reader, writer = await asyncio.open_connection(self.host, self.port, ssl=context)
        try:
            writer.write(self._head(method, path, len(body)) + body)
            await writer.drain()
            status, headers = await _read_head(reader)
            pieces = _body(reader, headers)
            if status != 200:
                text = b"".join([piece async for piece in pieces]).decode(errors="replace")
                raise HttpError(f"{method} {path} answers {status}: {text[:500]}", status)
            yield pieces
        except asyncio.IncompleteReadError as error:
            raise HttpError(f"{method} {path}: the connection ended early") from error
        finally:
            writer.close()

    def _head(self, method: str, path: str, size: int) -> bytes:
        lines = [f"{method} {self.prefix}{path} HTTP/1.1", f"Host: {self.host}:{self.port}"]
        lines += ["Connection: close", f"Content-Length: {size}", "Content-Type: application/json"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """The status and the headers, their names in lower case."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdigit():
        raise HttpError(f"the server does not speak HTTP: it says {first[:80]!r}")
    pairs = (line.partition(":") for line in lines if line)
    return int(words[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> AsyncIterator[bytes]:
    """The body's pieces: chunked, of a given length, or until the connection ends."""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        while size := int((await reader.readuntil(b"\n")).split(b";")[0], 16):
            yield (await reader.readexactly(size + 2))[:-2]
    elif "content-length" in headers:
        yield await reader.readexactly(int(headers["content-length"]))
    else:
        while piece := await reader.read(65536):
            yield piece
