"""Which tokens of a step can be computed side by side in their requests' recurrent states."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from quire.backends.torch.step import Step

__all__ = ["Int64", "Segments", "rounds"]

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Segments:
    """R runs of tokens, the longest first, and their N tokens: the first of each run, the second...

    starts, counts: [R], rows of the step, on the host.  run, offset: [N], where each token stands,
    there as well.  rows: [N], of the step.  together: how many runs have a first token, a second...
    read, write: [R], the records that a run follows on and leaves.
    """

    starts: Int64
    counts: Int64
    run: Int64
    offset: Int64
    together: tuple[int, ...]
    rows: torch.Tensor
    read: torch.Tensor
    write: torch.Tensor


def rounds(step: Step) -> list[Segments]:
    """All tokens of a step, once a step: up to each request's mark, then those behind marks."""
    return step.once("rounds", lambda: _rounds(step))


def _rounds(step: Step) -> list[Segments]:
    marks = step.batch.states[:, 2].tolist()
    first, behind = [], []
    segments = iter(step.batch.state_segments())
    for mark in marks:
        first.append(next(segments))
        if mark:
            behind.append(next(segments))
    return [_segments(step, np.array(each, np.int64)) for each in (first, behind) if each]


def _segments(step: Step, segments: Int64) -> Segments:
    """Of rows [start, end, read, write]."""
    counts = segments[:, 1] - segments[:, 0]
    longest = np.argsort(-counts, kind="stable")
    starts, _, read, write = segments[longest].T
    counts = counts[longest]
    offset, run = np.nonzero(np.arange(counts[0])[:, None] < counts)
    together = tuple(np.bincount(offset).tolist())
    rows, read, write = (step.put(each.copy()) for each in (starts[run] + offset, read, write))
    return Segments(starts, counts, run, offset, together, rows, read, write)
