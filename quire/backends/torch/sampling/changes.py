"""What changes logits before a token is chosen: masks, biases and penalties, as arrays of a step.

Zero stands for what changes nothing, so that rows which pad a step need nothing of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from quire.backends.torch.host_copies import sent
from quire.backends.torch.sampling.token_counts import SEEN
from quire.sampling.reference import ends_of_bad_words
from quire.sampling.state import SampleRow

__all__ = [
    "Changes",
    "HostChanges",
    "biased",
    "changed",
    "changes_of",
    "has_changes",
    "on_device",
]

Int32 = npt.NDArray[np.int32]
MASK, COUNTS, REPETITION, PRESENCE, FREQUENCY, BIASES = range(6)
"""Rows of Changes.columns."""


class HostChanges(NamedTuple):
    """Changes of S rows; counts are the device's.  See Changes."""

    columns: Int32
    masks: Int32 | None
    biases: Int32 | None


class Changes(NamedTuple):
    """The same on a device, for logits [S, V].

    columns: int32 [6, at least S], a column for each row: the numbers of its mask and of its row of
    counts, its three penalties as the bits of floats, and how many biases it has.
    masks: int32 [any, ceil(V / 32)], a bit for each token that may come; mask 0 allows all.
    biases: int32 [2, S, any], tokens, and floats as their bits; anything behind a row's own.
    counts: int32 [any, V], see token_counts; row 0 is nobody's.  What is None, no row has.
    """

    columns: torch.Tensor
    masks: torch.Tensor | None
    biases: torch.Tensor | None
    counts: torch.Tensor | None


def has_changes(row: SampleRow) -> bool:
    """Whether logits do not stay as the model gave them."""
    state = row.state
    if state.mask is not None or len(state.allowed) or len(state.bias_ids) or state.reads_output:
        return True
    return len(state.forbidden) > 0 and len(row.output) < state.params.min_tokens


def changes_of(rows: Sequence[SampleRow], num_tokens: int) -> HostChanges:
    """What rows ask for, of so many tokens that there are; nobody has a row of counts yet.

    So wide that each row of columns begins at a multiple of 16 bytes, for which kernels are
    compiled.
    """
    columns = np.zeros((6, -(-len(rows) // 4) * 4), np.int32)
    masks, biases = [np.full(-(-num_tokens // 32), -1, np.int32)], []
    for place, row in enumerate(rows):
        params = row.state.params
        columns[REPETITION : FREQUENCY + 1, place].view(np.float32)[:] = (
            params.repetition_penalty,
            params.presence_penalty,
            params.frequency_penalty,
        )
        if (mask := _mask(row, num_tokens)) is not None:
            columns[MASK, place] = len(masks)
            masks.append(mask)
        if len(row.state.bias_ids):
            biases.append((place, _biases(row, num_tokens)))
            columns[BIASES, place] = biases[-1][1].shape[1]
    return HostChanges(
        columns,
        np.stack(masks) if len(masks) > 1 else None,
        _side_by_side(biases, len(rows)) if biases else None,
    )


def changed(logits: torch.Tensor, changes: Changes) -> torch.Tensor:
    """A copy of logits [S, V]."""
    columns = changes.columns[:, : len(logits)]
    logits = biased(logits, changes)
    if changes.masks is not None:
        ids = torch.arange(logits.shape[1], device=logits.device)
        words = changes.masks[columns[MASK].long()]
        bits = words[:, ids // 32] >> (ids % 32) & 1
        logits = logits.masked_fill(bits == 0, -torch.inf)
    if changes.counts is not None:
        counts = changes.counts[columns[COUNTS].long()]
        times = (counts & (SEEN - 1)).float()
        repetition, presence, frequency = columns[REPETITION : FREQUENCY + 1, :, None].view(
            torch.float32
        )
        repeated = torch.where(logits > 0, logits / repetition, logits * repetition)
        logits = torch.where(counts & SEEN != 0, repeated, logits)
        logits = torch.where(times > 0, logits - frequency * times - presence, logits)
    return logits


def biased(logits: torch.Tensor, changes: Changes) -> torch.Tensor:
    """Logits [S, V] with biases only: a copy, where there are any."""
    if changes.biases is None:
        return logits
    tokens, bits = changes.biases[:, : len(logits)]
    counts = changes.columns[BIASES, : len(logits), None]
    is_there = torch.arange(tokens.shape[1], device=logits.device) < counts
    values = torch.where(is_there, bits.view(torch.float32), 0.0)
    return logits.scatter_add(1, torch.where(is_there, tokens, 0).long(), values)


def on_device(changes: HostChanges, counts: torch.Tensor | None, like: torch.Tensor) -> Changes:
    """Send what the host knows."""
    masks, biases = (None if each is None else sent(each, like.device) for each in changes[1:])
    return Changes(sent(changes.columns, like.device), masks, biases, counts)


def _mask(row: SampleRow, num_tokens: int) -> Int32 | None:
    """The tokens that may come, as bits; None where all may.

    Grammars, lists of allowed tokens, stop tokens before the output may end, and what would
    complete a bad word.
    """
    state, mask = row.state, row.state.mask
    if len(state.allowed):
        allowed = _bits(state.allowed, num_tokens)
        mask = allowed if mask is None else mask & allowed
    banned: list[Any] = []
    if len(state.forbidden) and len(row.output) < state.params.min_tokens:
        banned.append(state.forbidden)
    if len(state.bad_words):
        banned.append(ends_of_bad_words(state, row.output))
    for tokens in banned:
        others = ~_bits(tokens, num_tokens)
        mask = others if mask is None else mask & others
    return mask


def _bits(tokens: Any, num_tokens: int) -> Int32:
    """A bit for each of some tokens, [ceil(V / 32)]."""
    ids = _known(np.asarray(tokens, np.int64), num_tokens)
    words = np.zeros(-(-num_tokens // 32), np.uint32)
    np.bitwise_or.at(words, ids // 32, np.uint32(1) << (ids % 32).astype(np.uint32))
    return words.view(np.int32)


def _biases(row: SampleRow, num_tokens: int) -> Int32:
    """[2, any]: see Changes."""
    ids = row.state.bias_ids
    found = np.stack([ids, row.state.bias.view(np.int32)])
    return np.asarray(found[:, (ids >= 0) & (ids < num_tokens)])


def _side_by_side(biases: Sequence[tuple[int, Int32]], num_rows: int) -> Int32:
    found = np.zeros((2, num_rows, max(each.shape[1] for _, each in biases)), np.int32)
    for place, each in biases:
        found[:, place, : each.shape[1]] = each
    return found


def _known(ids: npt.NDArray[np.int64], num_tokens: int) -> npt.NDArray[np.int64]:
    return ids[(ids >= 0) & (ids < num_tokens)]
