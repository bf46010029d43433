"""Keeps what running requests have generated, for samplers that look back."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from quire.control.plan import UNKNOWN_TOKEN
from quire.ops.batch import Batch

__all__ = ["OutputHistory"]

Int32 = npt.NDArray[np.int32]


class OutputHistory:
    """The output tokens of requests, one row of an array per slot.

    Nobody has to say what was generated: a token is computed in some step before another one is
    drawn behind it, and so are guesses, in the places that they would have.
    """

    def __init__(self) -> None:
        self._tokens = np.zeros((8, 64), np.int32)
        self._is_kept = np.zeros(8, np.bool_)

    def keep(self, slot: int, wanted: bool) -> None:
        """A new request has this slot; keep its output if it is wanted."""
        while slot >= len(self._tokens):
            self._tokens = np.concatenate([self._tokens, np.zeros_like(self._tokens)])
            self._is_kept = np.concatenate([self._is_kept, np.zeros_like(self._is_kept)])
        self._is_kept[slot] = wanted

    def note(self, batch: Batch, num_prompt: Int32) -> None:
        """Keep the output tokens among those of a batch.  num_prompt: [R]."""
        is_kept = self._is_kept[batch.slots]
        if not is_kept.any():
            return
        requests = batch.request_of_token()
        indices = batch.positions - num_prompt[requests]
        kept = np.flatnonzero(is_kept[requests] & (indices >= 0))
        self._widen(int(indices.max()) + 1)
        self._tokens[batch.slots[requests[kept]], indices[kept]] = batch.token_ids[kept]

    def learn(self, slots: Int32, indices: Int32, tokens: Int32) -> None:
        """Note tokens that stood here as UNKNOWN_TOKEN, by slot and output index."""
        inside = (indices >= 0) & (indices < self._tokens.shape[1])
        slots, indices, tokens = slots[inside], indices[inside], tokens[inside]
        missing = self._tokens[slots, indices] == UNKNOWN_TOKEN
        self._tokens[slots[missing], indices[missing]] = tokens[missing]

    def tokens(self, slot: int, count: int) -> Int32:
        """The first `count` output tokens of a slot."""
        return self._tokens[slot, :count]

    def addresses(self, slots: Int32) -> npt.NDArray[np.uintp]:
        """Where the output tokens of each slot stand; valid until the next `keep` or `note`."""
        first, step = self._tokens.ctypes.data, self._tokens.strides[0]
        found: Any = first + step * slots.astype(np.uintp)
        return np.asarray(found, np.uintp)

    def _widen(self, width: int) -> None:
        missing = width - self._tokens.shape[1]
        if missing > 0:
            more = max(missing, self._tokens.shape[1])
            self._tokens = np.pad(self._tokens, ((0, 0), (0, more)))
