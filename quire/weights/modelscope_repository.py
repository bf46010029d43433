"""One repository of the ModelScope hub through its REST API: the listing, and bytes of files.

    GET /api/v1/models/{org}/{name}/repo/files?Revision=…&Recursive=true   the listing
    GET /api/v1/models/{org}/{name}/repo?Revision=…&FilePath=…             one file's bytes

Source: the `modelscope_hub` client, and https://modelscope.cn/docs.
"""

from __future__ import annotations

import http.client
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from quire.errors import ModelError
from quire.weights.hub_files import choose_files

__all__ = ["CHUNK_BYTES", "Repository", "RepositoryFile", "UnreachableError", "chunks"]

MAX_LISTING_BYTES = 64_000_000
CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30
IN_A_FOLDER = re.compile(r"[0-9]+_[A-Za-z]+/config\.json")
"""What sentence-transformers keeps in folders."""


class UnreachableError(Exception):
    """The hub did not answer, or not to the end; asking again may help."""


@dataclass(frozen=True, slots=True)
class RepositoryFile:
    """One file of a listing; size None and sha256 "" mean that the hub did not say."""

    name: str
    size: int | None
    sha256: str


@dataclass(frozen=True, slots=True)
class Repository:
    """One revision of one model on a hub."""

    endpoint: str
    model: str
    revision: str
    token: str | None

    def files(self) -> list[RepositoryFile]:
        """Ask the hub for the listing and choose what Quire uses."""
        with self.open("/files", {"Recursive": "true"}) as response:
            raw = b"".join(chunks(response, MAX_LISTING_BYTES))
        try:
            answer = json.loads(raw)
            if not answer.get("Success", True):
                raise self.absent(str(answer.get("Message")))
            listed = [_listed(entry) for entry in answer["Data"]["Files"]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{self.model}: {self.endpoint} answers something that is not a listing of "
                "files; check MODELSCOPE_ENDPOINT"
            ) from error
        by_name = {file.name: file for file in listed if file is not None}
        return [by_name[name] for name in choose_files(by_name)]

    def open(self, path: str, query: dict[str, str], start: int = 0) -> http.client.HTTPResponse:
        """Send one GET request, for the bytes from `start`."""
        parameters = urllib.parse.urlencode({"Revision": self.revision, **query})
        url = f"{self.endpoint}/api/v1/models/{self.model}/repo{path}?{parameters}"
        try:
            request = urllib.request.Request(url, headers={"User-Agent": "quire"})
            if start:
                request.add_header("Range", f"bytes={start}-")
            if self.token:  # kept from the storage hosts that the hub redirects to
                request.add_unredirected_header("Authorization", f"Bearer {self.token}")
                request.add_unredirected_header("Cookie", f"m_session_id={self.token}")
            response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT_S)
            return response
        except urllib.error.HTTPError as error:
            raise self.explained(error) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise UnreachableError(str(error)) from error

    def explained(self, error: urllib.error.HTTPError) -> Exception:
        """Say what an HTTP error means for the user."""
        if error.code in (401, 403):
            return ModelError(
                f"{self.model}: private or gated on {self.endpoint} (HTTP {error.code}); accept "
                "its terms there and pass a token of that account"
            )
        if error.code in (400, 404):
            return self.absent(f"HTTP {error.code}")
        return UnreachableError(f"HTTP {error.code}")

    def absent(self, answer: str) -> ModelError:
        """Say that the hub has no such thing."""
        return ModelError(
            f"{self.model}: no such model on {self.endpoint}, or no revision {self.revision!r} of "
            f"it ({answer:.200}); check the spelling (org/name), or pass a token if it is private"
        )


def _listed(entry: dict[str, Any]) -> RepositoryFile | None:
    """Read one entry of a listing; None for folders and for files inside them, but for a few."""
    name, size, sha256 = entry["Path"], entry.get("Size"), entry.get("Sha256") or ""
    is_plain = not name.startswith(".") and not set(name) & set("/\\:\0")
    if entry.get("Type") == "tree" or not (is_plain or IN_A_FOLDER.fullmatch(name)):
        return None
    known = isinstance(size, int) and size >= 0
    valid = isinstance(sha256, str) and re.fullmatch(r"[0-9a-fA-F]{64}", sha256)
    return RepositoryFile(name, size if known else None, sha256.lower() if valid else "")


def chunks(response: http.client.HTTPResponse, limit: int | None = None) -> Iterator[bytes]:
    """Yield the body of a response, at most `limit` bytes of it."""
    left = limit
    while left is None or left > 0:
        try:
            chunk = response.read(CHUNK_BYTES if left is None else min(left, CHUNK_BYTES))
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(str(error)) from error
        if not chunk:
            return
        left = None if left is None else left - len(chunk)
        yield chunk
