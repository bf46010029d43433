"""Keeps a folder of files that can be made again from growing without end."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from quire.whole_file import PART_SUFFIX

__all__ = ["mark_used", "sweep"]

STALE_SECONDS = 3600
"""A part that nobody wrote to for so long was left by a process that is gone."""
MOST_BYTES = 100 * 10**9


def mark_used(path: Path) -> None:
    """Note that a file is used now, where that can be noted."""
    with contextlib.suppress(OSError):
        os.utime(path)


def sweep(folder: Path, keep: Path, most_bytes: int = MOST_BYTES) -> None:
    """Delete stale parts, and whole files, longest unused first, beyond `most_bytes` in all.

    keep: a file that stays whatever its size.  What cannot be deleted stays too.
    """
    used: list[tuple[float, int, Path]] = []
    left = most_bytes
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            facts = path.stat()
            if path.suffix == PART_SUFFIX:
                if time.time() - facts.st_mtime > STALE_SECONDS:
                    path.unlink()
            elif path == keep:
                left -= facts.st_size
            else:
                used.append((facts.st_mtime, facts.st_size, path))
    for _, size, path in sorted(used, reverse=True):
        left -= size
        if left < 0:
            with contextlib.suppress(OSError):
                path.unlink()
