"""Masks, bias and penalties: what changes logits before a token is chosen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from quire.backends.torch.host_copies import sent
from quire.control.plan import UNKNOWN_TOKEN
from quire.sampling.reference import ends_of_bad_words
from quire.sampling.state import SampleRow

__all__ = ["adjust_listed", "adjusted", "is_plain"]

Places = npt.NDArray[np.int64]


def adjusted(logits: torch.Tensor, rows: Sequence[SampleRow], before: torch.Tensor) -> torch.Tensor:
    """The logits [S, V] as the rows' parameters change them: themselves, or a copy.

    before: [S], the last token of each row's output, where the host knows it as UNKNOWN_TOKEN.  A
    row with bad words knows all its tokens.
    """
    if all(is_plain(row) for row in rows):
        return logits
    logits = logits.clone()
    _mask(logits, rows)
    adjust_listed(logits, rows)
    _penalize_repetition(logits, rows, before)
    _penalize_output(logits, rows, before)
    return logits


def adjust_listed(logits: torch.Tensor, rows: Sequence[SampleRow]) -> None:
    """What requests say of single tokens: which are allowed, which are not, and biases."""
    _limit(logits, rows)
    _ban(logits, rows)
    _bias(logits, rows)


def is_plain(row: SampleRow) -> bool:
    """Whether logits stay as the model gave them."""
    state = row.state
    special = (len(state.allowed), len(state.bias_ids), state.reads_output)
    early = len(state.forbidden) and len(row.output) < state.params.min_tokens
    return state.mask is None and not any(special) and not early


def _mask(logits: torch.Tensor, rows: Sequence[SampleRow]) -> None:
    """Grammars, a bit for each token."""
    masked = [place for place, row in enumerate(rows) if row.state.mask is not None]
    if masked:
        words = _put(logits, np.stack([rows[place].state.mask for place in masked]))  # type: ignore[misc]
        ids = torch.arange(logits.shape[1], device=logits.device)
        bits = words[:, ids // 32] >> (ids % 32) & 1
        at = _put(logits, np.array(masked, np.int64))
        logits[at] = logits[at].masked_fill(bits == 0, -torch.inf)


def _limit(logits: torch.Tensor, rows: Sequence[SampleRow]) -> None:
    """Lists of allowed tokens."""
    limited = [place for place, row in enumerate(rows) if len(row.state.allowed)]
    if limited:
        at = _put(logits, np.array(limited, np.int64))
        places, tokens = _pairs(logits, ((i, rows[p].state.allowed) for i, p in enumerate(limited)))
        others = torch.ones((len(limited), logits.shape[1]), dtype=torch.bool, device=logits.device)
        others[places, tokens] = False
        logits[at] = logits[at].masked_fill(others, -torch.inf)


def _ban(logits: torch.Tensor, rows: Sequence[SampleRow]) -> None:
    """Stop tokens before the output may end, and what would complete a bad word."""
    banned: list[tuple[int, Any]] = []
    for place, row in enumerate(rows):
        if len(row.output) < row.state.params.min_tokens:
            banned.append((place, row.state.forbidden))
        if len(row.state.bad_words):
            banned.append((place, ends_of_bad_words(row.state, row.output)))
    if banned:
        logits[_pairs(logits, banned)] = -torch.inf


def _bias(logits: torch.Tensor, rows: Sequence[SampleRow]) -> None:
    size, biased = logits.shape[1], [row.state for row in rows if len(row.state.bias_ids)]
    if biased:
        at = _pairs(logits, ((place, row.state.bias_ids) for place, row in enumerate(rows)))
        known = [each.bias[(each.bias_ids >= 0) & (each.bias_ids < size)] for each in biased]
        logits[at] += _put(logits, np.concatenate(known))


def _penalize_repetition(
    logits: torch.Tensor, rows: Sequence[SampleRow], before: torch.Tensor
) -> None:
    """Of the prompt's tokens and those generated."""
    penalties = [row.state.params.repetition_penalty for row in rows]
    wanted = [place for place, penalty in enumerate(penalties) if penalty != 1]
    if not wanted:
        return
    seen = [(place, np.union1d(rows[place].output, rows[place].state.prompt)) for place in wanted]
    places, tokens = _pairs(logits, seen)
    if unknown := _unknown(rows, wanted):  # a pair that is there twice is the same number twice
        more = _put(logits, np.array(unknown, np.int64))
        places, tokens = torch.cat([places, more]), torch.cat([tokens, before[more].clamp(min=0)])
    factors = _put(logits, np.array(penalties, np.float32))[places]
    values = logits[places, tokens]
    logits[places, tokens] = torch.where(values > 0, values / factors, values * factors)


def _penalize_output(logits: torch.Tensor, rows: Sequence[SampleRow], before: torch.Tensor) -> None:
    """By how often a token was generated, and whether it was."""
    params = [row.state.params for row in rows]
    wanted = [
        place
        for place, each in enumerate(params)
        if each.presence_penalty or each.frequency_penalty
    ]
    if not wanted:
        return
    at = _put(logits, np.array(wanted, np.int64))
    counts = _counts(logits, rows, before, wanted)
    frequency, presence = (
        _put(logits, np.array(each, np.float32)[wanted, None])
        for each in (
            [each.frequency_penalty for each in params],
            [each.presence_penalty for each in params],
        )
    )
    logits[at] = logits[at] - frequency * counts - torch.where(counts > 0, presence, 0.0)


def _counts(
    logits: torch.Tensor, rows: Sequence[SampleRow], before: torch.Tensor, wanted: Sequence[int]
) -> torch.Tensor:
    """How often each token stands in the outputs of some rows, [rows, V] float32."""
    size = logits.shape[1]
    known = [
        np.unique(output[(output >= 0) & (output < size)], return_counts=True)
        for output in (rows[place].output for place in wanted)
    ]
    counts = torch.zeros((len(wanted), size), dtype=torch.float32, device=logits.device)
    at = _pairs(logits, ((index, tokens) for index, (tokens, _) in enumerate(known)))
    counts[at] = _put(logits, np.concatenate([times for _, times in known]).astype(np.float32))
    if unknown := _unknown(rows, wanted):
        places = _put(logits, np.array(unknown, np.int64))
        lines = _put(logits, np.array([wanted.index(place) for place in unknown], np.int64))
        counts[lines, before[places].clamp(min=0)] += 1
    return counts


def _unknown(rows: Sequence[SampleRow], wanted: Sequence[int]) -> list[int]:
    """Of some rows those whose last token only the device knows."""
    return [
        place
        for place in wanted
        if len(rows[place].output) and rows[place].output[-1] == UNKNOWN_TOKEN
    ]


def _pairs(
    logits: torch.Tensor, lists: Iterable[tuple[int, Any]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and tokens of lists of tokens of rows; unknown token ids are left out."""
    rows: list[Places] = [np.zeros(0, np.int64)]
    tokens: list[Places] = [np.zeros(0, np.int64)]
    for row, ids in lists:
        array = np.asarray(ids, np.int64)
        tokens.append(array[(array >= 0) & (array < logits.shape[1])])
        rows.append(np.full(len(tokens[-1]), row, np.int64))
    return _put(logits, np.concatenate(rows)), _put(logits, np.concatenate(tokens))


def _put(logits: torch.Tensor, array: np.ndarray) -> torch.Tensor:
    return sent(array, logits.device)
