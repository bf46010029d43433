"""Downloads a repository of the ModelScope hub through its REST API.

    GET /api/v1/models/{org}/{name}/repo/files?Revision=…&Recursive=true   the listing
    GET /api/v1/models/{org}/{name}/repo?Revision=…&FilePath=…             one file's bytes

A file is written as `.<digest>.part`, which a later run continues, and is checked against the
listing's size and SHA-256; when all are whole they are renamed, and the listing is kept beside
them.  A lock file keeps runs that start together from downloading twice.
Source: the `modelscope_hub` client, and https://modelscope.cn/docs.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quire.errors import ModelError
from quire.weights.hub_files import choose_files

__all__ = ["ENDPOINT", "download"]

logger = logging.getLogger(__name__)

ENDPOINT = "https://modelscope.cn"
CACHE = Path(".cache", "quire", "modelscope")  # in the home directory
LISTING = ".listing.json"
LOCK = ".lock"
MAX_LISTING_BYTES = 64_000_000
CHUNK_BYTES = 1 << 20
ATTEMPTS = 4
FIRST_PAUSE_S = 1.0
TIMEOUT_S = 30


def download(
    model: str,
    revision: str | None,
    cache_dir: Path | None,
    offline: bool,
    token: str | None,
    endpoint: str = ENDPOINT,
) -> Path:
    """Return the directory of a model, complete as far as Quire uses it.

    revision: "master" if None.  Raises ModelError with the cure.
    """
    revision = revision or "master"
    directory = (
        cache_dir or Path.home() / CACHE
    ) / f"{model.replace('/', '--')}@{_file_name(revision)}"
    if offline:
        if _is_complete(directory):
            return directory
        raise ModelError(f"{model}: not in {directory}, or not all of it; run once online")
    repository = _Repository(endpoint.rstrip("/"), model, revision, token)
    try:
        _update(repository, directory)
    except _Unreachable as error:
        if not _is_complete(directory):
            raise ModelError(
                f"{model}: cannot be downloaded from {repository.endpoint} ({error}); check the "
                "network and MODELSCOPE_ENDPOINT, then run again: what has arrived is kept"
            ) from error
        logger.warning("%s: using the cached copy, because the hub is away: %s", model, error)
    except OSError as error:
        raise ModelError(
            f"{model}: cannot be stored in {directory}: {error}; free some space or choose "
            "another cache directory"
        ) from error
    return directory


class _Unreachable(Exception):
    """The hub did not answer, or not to the end; asking again may help."""


IN_A_FOLDER = re.compile(r"[0-9]+_[A-Za-z]+/config\.json")
"""What sentence-transformers keeps in folders."""


@dataclass(frozen=True, slots=True)
class _File:
    """One file of a listing; size None and sha256 "" mean that the hub did not say."""

    name: str
    size: int | None
    sha256: str


@dataclass(frozen=True, slots=True)
class _Repository:
    """One revision of one model on a hub."""

    endpoint: str
    model: str
    revision: str
    token: str | None

    def files(self) -> list[_File]:
        """Ask the hub for the listing and choose what Quire uses."""
        with self.open("/files", {"Recursive": "true"}) as response:
            raw = b"".join(_chunks(response, MAX_LISTING_BYTES))
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
            raise _Unreachable(str(error)) from error

    def explained(self, error: urllib.error.HTTPError) -> Exception:
        """Say what an HTTP error means for the user."""
        if error.code in (401, 403):
            return ModelError(
                f"{self.model}: private or gated on {self.endpoint} (HTTP {error.code}); accept "
                "its terms there and pass a token of that account"
            )
        if error.code in (400, 404):
            return self.absent(f"HTTP {error.code}")
        return _Unreachable(f"HTTP {error.code}")

    def absent(self, answer: str) -> ModelError:
        """Say that the hub has no such thing."""
        return ModelError(
            f"{self.model}: no such model on {self.endpoint}, or no revision {self.revision!r} of "
            f"it ({answer:.200}); check the spelling (org/name), or pass a token if it is private"
        )


def _file_name(revision: str) -> str:
    """Spell a revision such as `refs/pr/1` as part of a file name."""
    return urllib.parse.quote(revision, safe="")


def _listed(entry: dict[str, Any]) -> _File | None:
    """Read one entry of a listing; None for folders and for files inside them, but for a few."""
    name, size, sha256 = entry["Path"], entry.get("Size"), entry.get("Sha256") or ""
    is_plain = not name.startswith(".") and not set(name) & set("/\\:\0")
    if entry.get("Type") == "tree" or not (is_plain or IN_A_FOLDER.fullmatch(name)):
        return None
    known = isinstance(size, int) and size >= 0
    valid = isinstance(sha256, str) and re.fullmatch(r"[0-9a-fA-F]{64}", sha256)
    return _File(name, size if known else None, sha256.lower() if valid else "")


def _update(repository: _Repository, directory: Path) -> None:
    """Download what the directory lacks or has in an older version.

    Nothing is replaced before everything has arrived, so a broken update leaves the old snapshot.
    """
    from filelock import FileLock  # a dependency of huggingface_hub

    files = repository.files()
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    with FileLock(directory / LOCK):
        kept = _read_listing(directory)
        stale = [file for file in files if not _is_current(directory / file.name, file, kept)]
        parts = [_download(repository, file, directory) for file in stale]
        if stale:
            (directory / LISTING).unlink(missing_ok=True)
        for file, part in zip(stale, parts, strict=True):
            (directory / file.name).parent.mkdir(exist_ok=True)
            os.replace(part, directory / file.name)
        _write_listing(directory, files)


def _is_current(path: Path, file: _File, kept: list[_File]) -> bool:
    """Say whether the file is there as listed; one that the kept listing has is not read again."""
    if file in kept:
        return _has_size(path, file)
    return bool(file.sha256) and _is_whole(path, file)


def _download(repository: _Repository, file: _File, directory: Path) -> Path:
    """Download one file, continuing after what an earlier run left, and return where it is."""
    identity = hashlib.blake2b(repr(file).encode(), digest_size=16).hexdigest()
    part = directory / f".{identity}.part"
    for attempt in range(ATTEMPTS):
        try:
            _continue(repository, file, part)
            break
        except _Unreachable:
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(FIRST_PAUSE_S * 2**attempt)
    if not _is_whole(part, file):
        part.unlink(missing_ok=True)
        raise ModelError(
            f"{repository.model}: {file.name} arrived with another size or SHA-256 than "
            f"{repository.endpoint} lists; run again"
        )
    return part


def _continue(repository: _Repository, file: _File, part: Path) -> None:
    """Receive the bytes of a file that its part lacks; all of them if its size is unknown."""
    with part.open("ab") as out:
        if file.size is None:
            out.truncate(0)
        start = out.seek(0, os.SEEK_END)
        if file.size is not None and start >= file.size:
            return
        with repository.open("", {"FilePath": file.name}, start) as response:
            if response.status != http.client.PARTIAL_CONTENT:
                out.truncate(start := 0)
            size = int(response.headers.get("Content-Length") or 0) + start
            with _progress(file, start) as bar:
                for chunk in _chunks(response):
                    bar.update(out.write(chunk))
        out.flush()
        os.fsync(out.fileno())
        if out.tell() < (size if file.size is None else file.size):
            raise _Unreachable(f"{file.name} was cut off at byte {out.tell()}")


def _chunks(response: http.client.HTTPResponse, limit: int | None = None) -> Iterator[bytes]:
    """Yield the body of a response, at most `limit` bytes of it."""
    left = limit
    while left is None or left > 0:
        try:
            chunk = response.read(CHUNK_BYTES if left is None else min(left, CHUNK_BYTES))
        except (OSError, http.client.HTTPException) as error:
            raise _Unreachable(str(error)) from error
        if not chunk:
            return
        left = None if left is None else left - len(chunk)
        yield chunk


def _progress(file: _File, start: int) -> Any:
    """Show how far one file is, on the terminal and under the rules of the other hub's bars."""
    # Imported here: 0.24 s that only a download waits for.
    from huggingface_hub.utils.tqdm import tqdm

    bar: Any = tqdm
    return bar(total=file.size, initial=start, unit="B", unit_scale=True, desc=file.name)


def _has_size(path: Path, file: _File) -> bool:
    """Say whether the file is there with the listed size."""
    return path.is_file() and file.size in (None, path.stat().st_size)


def _is_whole(path: Path, file: _File) -> bool:
    """Say whether the file is there with the listed size and content."""
    if not _has_size(path, file):
        return False
    if not file.sha256:
        return True
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest() == file.sha256


def _is_complete(directory: Path) -> bool:
    """Say whether a finished snapshot is there, and all of it."""
    kept = _read_listing(directory)
    return bool(kept) and all(_has_size(directory / file.name, file) for file in kept)


def _read_listing(directory: Path) -> list[_File]:
    """Return the listing of a snapshot that was finished; empty if none was."""
    try:
        return [_File(**entry) for entry in json.loads((directory / LISTING).read_bytes())]
    except (OSError, ValueError, TypeError):
        return []


def _write_listing(directory: Path, files: list[_File]) -> None:
    """Record that a snapshot is finished."""
    temporary = directory / f"{LISTING}.{os.getpid()}"
    with temporary.open("w") as out:
        json.dump([asdict(file) for file in files], out)
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, directory / LISTING)
