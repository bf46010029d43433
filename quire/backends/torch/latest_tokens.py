"""The token that was sampled last for each request, where the host does not know it yet."""

from __future__ import annotations

import numpy as np
import torch

from quire.backends.torch.host_copies import sent
from quire.control.plan import UNKNOWN_TOKEN
from quire.ops.batch import Batch

__all__ = ["NUM_PLACES", "LatestTokens"]

NUM_PLACES = 4096
"""At the start; with more requests than this the tokens move to another place of memory."""


class LatestTokens:
    """A token per slot, on the device, written by one step and read by the next.

    tokens: that of slot i at place i + 1; place 0 is for requests that are nobody's.
    """

    def __init__(self, device: torch.device) -> None:
        self.tokens = torch.zeros(NUM_PLACES, dtype=torch.int64, device=device)

    def make_room(self, slot: int) -> None:
        """There is a request with this slot."""
        while slot + 1 >= len(self.tokens):
            self.tokens = torch.cat([self.tokens, torch.zeros_like(self.tokens)])

    def fill_in(self, batch: Batch, token_ids: torch.Tensor) -> None:
        """Write the tokens that the batch does not know into its token ids [T] on the device.

        Where none could be sampled it is token 0: that request is over, and what follows dropped.
        """
        tokens = np.flatnonzero(batch.token_ids == UNKNOWN_TOKEN)
        if len(tokens):
            places = batch.slots[batch.request_of_token()[tokens]].astype(np.int64) + 1
            known = self.tokens[self._sent(places)].clamp(min=0)
            token_ids.index_put_((self._sent(tokens),), known)

    def note(self, batch: Batch, tokens: torch.Tensor) -> None:
        """Keep what was sampled in the last logit row of each request; tokens: [S]."""
        requests = batch.request_of_token()[batch.logit_rows]
        rows = np.flatnonzero(np.diff(requests, append=-1))
        places = batch.slots[requests[rows]].astype(np.int64) + 1
        self.tokens.index_put_(
            (self._sent(places),), tokens.to(self.tokens.device)[self._sent(rows)]
        )

    def _sent(self, array: np.ndarray) -> torch.Tensor:
        return sent(array, self.tokens.device)
