"""The token that was sampled last for each request, where the host does not know it yet."""

from __future__ import annotations

import numpy as np
import torch

from quire.backends.torch.host_copies import sent
from quire.control.plan import UNKNOWN_TOKEN
from quire.ops.batch import Batch

__all__ = ["LatestTokens"]


class LatestTokens:
    """A token per slot, on the device, written by one step and read by the next."""

    def __init__(self, device: torch.device) -> None:
        self._tokens = torch.zeros(8, dtype=torch.int64, device=device)

    def make_room(self, slot: int) -> None:
        """There is a request with this slot."""
        while slot >= len(self._tokens):
            self._tokens = torch.cat([self._tokens, torch.zeros_like(self._tokens)])

    def fill_in(self, batch: Batch, token_ids: torch.Tensor) -> None:
        """Write the tokens that the batch does not know into its token ids [T] on the device.

        Where none could be sampled it is token 0: that request is over, and what follows dropped.
        """
        places = np.flatnonzero(batch.token_ids == UNKNOWN_TOKEN)
        if len(places):
            slots = batch.slots[batch.request_of_token()[places]].astype(np.int64)
            known = self._tokens[self._sent(slots)].clamp(min=0)
            token_ids.index_put_((self._sent(places),), known)

    def note(self, batch: Batch, tokens: torch.Tensor) -> None:
        """Keep what was sampled in the last logit row of each request; tokens: [S]."""
        requests = batch.request_of_token()[batch.logit_rows]
        rows = np.flatnonzero(np.diff(requests, append=-1))
        slots = batch.slots[requests[rows]].astype(np.int64)
        self._tokens.index_put_(
            (self._sent(slots),), tokens.to(self._tokens.device)[self._sent(rows)]
        )

    def _sent(self, array: np.ndarray) -> torch.Tensor:
        return sent(array, self._tokens.device)
