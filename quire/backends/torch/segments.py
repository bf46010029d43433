"""Which tokens of a step can be computed side by side in their requests' recurrent states."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from quire.backends.torch.step import Step

__all__ = ["PIECE", "Int64", "Piece", "Segments", "pieces", "rounds"]

Int64 = npt.NDArray[np.int64]


PIECE = 64
"""Tokens of a run that are computed at once, at most."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Up to L tokens of each of some runs, the next ones.

    runs: which.  rows: [r, L], of the step; anything where is_token, [r, L], is False.  tokens:
    [n], those of r * L that there are.  to: [n], their rows.
    """

    runs: slice
    rows: torch.Tensor
    is_token: torch.Tensor
    tokens: torch.Tensor
    to: torch.Tensor


@dataclass(frozen=True, slots=True)
class Segments:
    """R runs of tokens, the longest first, and their N tokens, run by run.

    starts, counts: [R], rows of the step, on the host.  run, offset: [N], where each token stands,
    there as well.  rows: [N], of the step.
    read, write: [R], the records that a run follows on and leaves.
    """

    starts: Int64
    counts: Int64
    run: Int64
    offset: Int64
    rows: torch.Tensor
    read: torch.Tensor
    write: torch.Tensor


def rounds(step: Step) -> list[Segments]:
    """All tokens of a step, once a step: up to each request's mark, then those behind marks."""
    return step.once("rounds", lambda: _rounds(step))


def _rounds(step: Step) -> list[Segments]:
    if step.is_decoding:
        return [_single_tokens(step)]
    marks = step.batch.states[:, 2].tolist()
    first, behind = [], []
    segments = iter(step.batch.state_segments())
    for mark in marks:
        first.append(next(segments))
        if mark:
            behind.append(next(segments))
    return [_segments(step, np.array(each, np.int64)) for each in (first, behind) if each]


def _single_tokens(step: Step) -> Segments:
    """A token of each request, which no mark can stand before: all but the records is known."""
    rows = torch.arange(len(step.token_ids), device=step.token_ids.device)
    states = step.array("states", lambda batch: batch.states).long()
    runs = np.arange(len(rows))
    return Segments(runs, runs * 0 + 1, runs, runs * 0, rows, states[:, 0], states[:, 1])


def _segments(step: Step, segments: Int64) -> Segments:
    """Of rows [start, end, read, write]."""
    counts = segments[:, 1] - segments[:, 0]
    longest = np.argsort(-counts, kind="stable")
    starts, _, read, write = segments[longest].T
    counts = counts[longest]
    run, offset = np.nonzero(np.arange(counts[0]) < counts[:, None])
    rows, read, write = (step.put(each.copy()) for each in (starts[run] + offset, read, write))
    return Segments(starts, counts, run, offset, rows, read, write)


def pieces(step: Step, index: int) -> list[Piece]:
    """The tokens of the step's rounds()[index] in running order, made once a step.

    Runs of one token, of which a step may have many, are not brought to the length of others.
    """
    return step.once(("pieces", index), lambda: _pieces(step, rounds(step)[index]))


def _pieces(step: Step, segments: Segments) -> list[Piece]:
    if step.is_decoding:
        rows = segments.rows
        is_token = torch.ones_like(rows, dtype=torch.bool)
        return [Piece(slice(0, len(rows)), rows[:, None], is_token[:, None], rows, rows)]
    counts = segments.counts
    ends = [0, int((counts > 1).sum()), len(counts)]
    return [
        _piece(step, segments, slice(first, first + int((counts[first:end] > start).sum())), start)
        for first, end in pairwise(ends)
        for start in range(0, int(counts[first:end].max(initial=0)), PIECE)
    ]


def _piece(step: Step, segments: Segments, runs: slice, start: int) -> Piece:
    counts = segments.counts[runs, None]
    offsets = start + np.arange(min(PIECE, counts.max() - start))
    is_token = offsets < counts
    rows = segments.starts[runs, None] + np.minimum(offsets, counts - 1)
    tokens = np.flatnonzero(is_token)
    arrays = rows, is_token, tokens, rows.reshape(-1)[tokens]
    return Piece(runs, *(step.put(each) for each in arrays))
