"""Samples what a server process holds, and judges whether it grows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["MOST_GROWTH", "Sample", "faults", "growth", "sample"]

MOST_GROWTH = 0.01
"""Of the memory that a server holds: what a fitted line may rise by after the warm-up."""

MORE_FILES = 8
"""Files that an idle server may have open beside those that it had before the first request."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process holds at a time.  resident: bytes.  blocks: share of the KV blocks in use."""

    seconds: float
    resident: int
    files: int
    threads: int
    blocks: float
    running: int
    waiting: int


def sample(pid: int, seconds: float, metrics: str) -> Sample:
    """Read /proc and the text of /metrics."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return Sample(
        seconds,
        int(status["VmRSS"].split()[0]) * 1024,
        len(list(Path(f"/proc/{pid}/fd").iterdir())),
        int(status["Threads"]),
        _gauge(metrics, "kv_cache_usage_perc"),
        int(_gauge(metrics, "num_requests_running")),
        int(_gauge(metrics, "num_requests_waiting")),
    )


def growth(samples: Sequence[Sample]) -> float:
    """By how much of their mean a line through the resident sizes rises from first to last."""
    times = np.array([each.seconds for each in samples])
    sizes = np.array([each.resident for each in samples], np.float64)
    slope, _ = np.polyfit(times, sizes, 1)
    return float(slope * (times[-1] - times[0]) / sizes.mean())


def faults(before: Sample, loaded: Sequence[Sample], after: Sample) -> Iterator[str]:
    """What speaks against the server.

    before, after: idle.  loaded: under load, after the warm-up.
    """
    grown = growth(loaded)
    if grown > MOST_GROWTH:
        yield f"resident memory grew by {grown:.1%} after the warm-up, {MOST_GROWTH:.0%} is allowed"
    middle = loaded[: len(loaded) // 2]
    if after.threads > max(each.threads for each in middle):
        yield f"{after.threads} threads are left, more than in the first half"
    if after.files > before.files + MORE_FILES:
        yield f"{after.files} files are open, {before.files} were before the first request"
    if after.running or after.waiting:
        yield f"{after.running} completions still run and {after.waiting} wait"
    if after.blocks:
        yield f"{after.blocks:.1%} of the KV blocks are still in use"


def _gauge(metrics: str, name: str) -> float:
    found = re.search(rf"^vllm:{name}{{[^}}]*}} (\S+)$", metrics, re.MULTILINE)
    assert found, f"/metrics has no {name}"
    return float(found[1])
