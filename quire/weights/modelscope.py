"""Downloads a repository of the ModelScope hub.

A file is written as `.<digest>.part`, which a later run continues, and is checked against the
listing's size and SHA-256; when all are whole they are renamed, and the listing is kept beside
them.  A lock file keeps runs that start together from downloading twice.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import time
import urllib.parse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quire.errors import ModelError
from quire.weights.modelscope_repository import (
    CHUNK_BYTES,
    Repository,
    RepositoryFile,
    UnreachableError,
    chunks,
)

__all__ = ["ENDPOINT", "download"]

logger = logging.getLogger(__name__)

ENDPOINT = "https://modelscope.cn"
CACHE = Path(".cache", "quire", "modelscope")  # in the home directory
LISTING = ".listing.json"
LOCK = ".lock"
ATTEMPTS = 4
FIRST_PAUSE_S = 1.0


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
    name = f"{model.replace('/', '--')}@{_file_name(revision)}"
    directory = (cache_dir or Path.home() / CACHE) / name
    if offline:
        if _is_complete(directory):
            return directory
        raise ModelError(f"{model}: not in {directory}, or not all of it; run once online")
    repository = Repository(endpoint.rstrip("/"), model, revision, token)
    try:
        _update(repository, directory)
    except UnreachableError as error:
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


def _file_name(revision: str) -> str:
    """Spell a revision such as `refs/pr/1` as part of a file name."""
    return urllib.parse.quote(revision, safe="")


def _update(repository: Repository, directory: Path) -> None:
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


def _is_current(path: Path, file: RepositoryFile, kept: list[RepositoryFile]) -> bool:
    """Say whether the file is there as listed; one that the kept listing has is not read again."""
    if file in kept:
        return _has_size(path, file)
    return bool(file.sha256) and _is_whole(path, file)


def _download(repository: Repository, file: RepositoryFile, directory: Path) -> Path:
    """Download one file, continuing after what an earlier run left, and return where it is."""
    identity = hashlib.blake2b(repr(file).encode(), digest_size=16).hexdigest()
    part = directory / f".{identity}.part"
    for attempt in range(ATTEMPTS):
        try:
            _continue(repository, file, part)
            break
        except UnreachableError:
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


def _continue(repository: Repository, file: RepositoryFile, part: Path) -> None:
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
                for chunk in chunks(response):
                    bar.update(out.write(chunk))
        out.flush()
        os.fsync(out.fileno())
        if out.tell() < (size if file.size is None else file.size):
            raise UnreachableError(f"{file.name} was cut off at byte {out.tell()}")


def _progress(file: RepositoryFile, start: int) -> Any:
    """Show how far one file is, on the terminal and under the rules of the other hub's bars."""
    # Imported here: 0.24 s that only a download waits for.
    from huggingface_hub.utils.tqdm import tqdm

    bar: Any = tqdm
    return bar(total=file.size, initial=start, unit="B", unit_scale=True, desc=file.name)


def _has_size(path: Path, file: RepositoryFile) -> bool:
    """Say whether the file is there with the listed size."""
    return path.is_file() and file.size in (None, path.stat().st_size)


def _is_whole(path: Path, file: RepositoryFile) -> bool:
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


def _read_listing(directory: Path) -> list[RepositoryFile]:
    """Return the listing of a snapshot that was finished; empty if none was."""
    try:
        return [RepositoryFile(**entry) for entry in json.loads((directory / LISTING).read_bytes())]
    except (OSError, ValueError, TypeError):
        return []


def _write_listing(directory: Path, files: list[RepositoryFile]) -> None:
    """Record that a snapshot is finished."""
    temporary = directory / f"{LISTING}.{os.getpid()}"
    with temporary.open("w") as out:
        json.dump([asdict(file) for file in files], out)
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, directory / LISTING)
