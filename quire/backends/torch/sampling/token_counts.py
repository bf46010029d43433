"""How often requests have said each token, on the device: what penalties are computed from.

A row of counts is int32 [V]: how often a token stands in the output, and the bit SEEN if it stands
in prompt or output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from quire.backends.torch.host_copies import sent
from quire.control.plan import UNKNOWN_TOKEN
from quire.sampling.state import SampleRow

__all__ = ["SEEN", "Count", "TokenCounts", "count_rows", "count_tokens", "has_penalties"]

SEEN = 1 << 30

Count: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], None]
"""See count_tokens."""


def count_tokens(
    counts: torch.Tensor, at: torch.Tensor, tokens: torch.Tensor, prompts: torch.Tensor
) -> None:
    """Count tokens int32 [n, L] into the rows `at` int32 [n] of counts [any, V].

    prompts: int32 [n], how many of the first tokens belong to the prompt.  Row 0 is nobody's; ids
    that are not in the vocabulary, such as -1 in padding, are ignored.
    """
    size, flat = counts.shape[1], counts.view(-1)
    is_known = (tokens >= 0) & (tokens < size) & (at > 0)[:, None]
    places = torch.where(is_known, at[:, None].long() * size + tokens, 0).view(-1)
    flat.index_put_((places,), flat[places] | SEEN)
    of_output = torch.arange(tokens.shape[1], device=tokens.device) >= prompts[:, None]
    flat.scatter_add_(0, places, (is_known & of_output).int().view(-1))


def count_rows(
    rows: Sequence[SampleRow], before: torch.Tensor, num_tokens: int, count: Count
) -> tuple[torch.Tensor | None, npt.NDArray[np.int32]]:
    """Counts made for some rows alone, None where none has penalties, and each row's place.

    before: [S], the last token of each row's output, where the host knows it as UNKNOWN_TOKEN.
    """
    are_some = np.array([has_penalties(row) for row in rows])
    places = np.where(are_some, np.cumsum(are_some), 0).astype(np.int32)
    if not are_some.any():
        return None, places
    device, at = before.device, np.flatnonzero(are_some)
    counts = torch.zeros((len(at) + 1, num_tokens), dtype=torch.int32, device=device)
    tokens, prompts = _texts([row for row in rows if has_penalties(row)])
    listed, last = sent(tokens, device), before[sent(at, device)].int()
    known = torch.where(listed == UNKNOWN_TOKEN, last[:, None], listed)
    count(counts, sent(places[at], device), known, sent(prompts, device))
    return counts, places


def has_penalties(row: SampleRow) -> bool:
    """Whether what was said before changes a row's logits."""
    params = row.state.params
    penalties = params.repetition_penalty, params.presence_penalty, params.frequency_penalty
    return penalties != (1.0, 0.0, 0.0)


def _texts(rows: Sequence[SampleRow]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Prompt and output of each row [n, longest], -1 behind them; the lengths of prompts [n]."""
    texts = [np.concatenate([row.state.prompt, row.output]) for row in rows]
    return _matrix(texts), np.array([len(row.state.prompt) for row in rows], np.int32)


def _matrix(lists: Sequence[npt.NDArray[np.int32]]) -> npt.NDArray[np.int32]:
    found = np.full((len(lists), max(1, *map(len, lists))), -1, np.int32)
    for to, each in zip(found, lists, strict=True):
        to[: len(each)] = each
    return found


class TokenCounts:
    """Counts that last from step to step, for requests with penalties that have one row a step.

    The step itself counts the last token of an output, which may only be known there.  What is
    missing before it, of a new request or after steps that counted nothing here, is sent.
    counts: [most_rows + 1, V].
    """

    def __init__(self, most_rows: int, num_tokens: int, device: torch.device, count: Count) -> None:
        shape = (most_rows + 1, num_tokens)
        self.counts = torch.zeros(shape, dtype=torch.int32, device=device)
        self._count = count
        self._rows: dict[int, int] = {}  # slot → row of counts, the least recently used first
        self._counted: dict[int, int] = {}  # slot → how many tokens of its output are counted

    def forget(self, slot: int) -> None:
        """Another request has this slot now."""
        self._counted.pop(slot, None)

    def bring_up(
        self, slots: Sequence[int], rows: Sequence[SampleRow]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Count all but the last token of outputs.

        Returns the place of each row's counts, and the same where its last token is still to be
        counted, else 0; [S].
        """
        places, last = np.zeros(len(rows), np.int32), np.zeros(len(rows), np.int32)
        missing: list[tuple[int, npt.NDArray[np.int32], int]] = []
        for index, (slot, row) in enumerate(zip(slots, rows, strict=True)):
            if not has_penalties(row):
                continue
            places[index], end = self._place(slot), len(row.output)
            counted, prompt = self._counted.get(slot, -1), row.state.prompt[:0]
            if not 0 <= counted <= end:
                self.counts[int(places[index])].zero_()
                counted, prompt = 0, row.state.prompt
            tokens = np.concatenate([prompt, row.output[counted : max(0, end - 1)]])
            if len(tokens):
                missing.append((int(places[index]), tokens, len(prompt)))
            last[index] = places[index] * (counted < end)
            self._counted[slot] = end
        if missing:
            at, texts, prompts = zip(*missing, strict=True)
            arrays = np.array(at, np.int32), _matrix(texts), np.array(prompts, np.int32)
            self._count(self.counts, *(sent(each, self.counts.device) for each in arrays))
        return places, last

    def _place(self, slot: int) -> int:
        """The row of a slot, which may be taken from another one."""
        if slot in self._rows:
            place = self._rows.pop(slot)
        elif len(self._rows) + 1 < len(self.counts):
            place = len(self._rows) + 1
        else:
            other = next(iter(self._rows))
            place = self._rows.pop(other)
            self.forget(other)
        self._rows[slot] = place
        return place
