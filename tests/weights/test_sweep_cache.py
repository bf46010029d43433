"""What is swept from the cache, and what stays."""

from __future__ import annotations

import os
import time
from pathlib import Path

from quire.weights.sweep_cache import STALE_SECONDS, mark_used, sweep


def write(path: Path, size: int, age: float) -> Path:
    path.write_bytes(bytes(size))
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_parts_that_nobody_writes_are_deleted(tmp_path: Path) -> None:
    keep = write(tmp_path / "new", 1, 0)
    write(tmp_path / "gone.part", 1, STALE_SECONDS + 10)
    write(tmp_path / "going.part", 1, STALE_SECONDS - 60)
    sweep(tmp_path, keep)
    assert names(tmp_path) == {"new", "going.part"}


def test_the_longest_unused_go_first_and_the_new_one_never(tmp_path: Path) -> None:
    keep = write(tmp_path / "new", 50, 500)
    for name, age in (("a", 400), ("b", 300), ("c", 200)):
        write(tmp_path / name, 10, age)
    sweep(tmp_path, keep, most_bytes=80)
    assert names(tmp_path) == {"new", "a", "b", "c"}
    mark_used(tmp_path / "a")
    sweep(tmp_path, keep, most_bytes=70)
    assert names(tmp_path) == {"new", "a", "c"}
    sweep(tmp_path, keep, most_bytes=10)
    assert names(tmp_path) == {"new"}
