"""Log-probabilities of tokens and of the most likely ones, as the model gave them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from quire.backends.torch.arrays import as_tensor
from quire.backends.torch.sampling.draw import softmax_weights
from quire.outputs import Logprob

__all__ = ["logprobs_of"]


def logprobs_of(
    logits: torch.Tensor, tokens: Sequence[int], counts: Sequence[int]
) -> list[dict[int, Logprob]]:
    """For each row of logits [S, V] its token first, then the `counts` most likely ones."""
    numbers = torch.where(logits.isnan(), -torch.inf, logits)
    order = numbers.sort(dim=1, descending=True, stable=True).indices
    highest = numbers.amax(dim=1, keepdim=True).double()
    total = softmax_weights(logits, 1.0).double().sum(dim=1, keepdim=True)
    told = as_tensor(np.array(tokens, np.int64)[:, None], logits.device)
    ranks = (order == told).int().argmax(dim=1) + 1
    listed = torch.cat([told, order[:, : max(counts)]], dim=1)
    logprobs = logits.gather(1, listed).double() - (highest + total.log())
    found = zip(listed.tolist(), logprobs.tolist(), ranks.tolist(), counts, strict=True)
    return [_entries(ids, values, rank, count) for ids, values, rank, count in found]


def _entries(ids: list[int], values: list[float], rank: int, count: int) -> dict[int, Logprob]:
    entries = {ids[0]: Logprob(values[0], rank)}
    for place in range(1, min(count, len(ids) - 1) + 1):
        entries.setdefault(ids[place], Logprob(values[place], place))
    return entries
