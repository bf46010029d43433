"""Filters and the draw: temperature, min-p, top-k and top-p, and a random number for each row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from quire.backends.torch.host_copies import sent
from quire.sampling.reference import uniform
from quire.sampling.state import SampleRow

__all__ = ["at_share", "drawn", "softmax_weights"]

LARGEST = torch.finfo(torch.float32).max


def drawn(logits: torch.Tensor, rows: Sequence[SampleRow]) -> torch.Tensor:
    """A token [S] of each row of logits [S, V]; temperatures are above 0."""
    params = [row.state.params for row in rows]
    temperature, min_p, top_p = (
        sent(np.array(each, np.float32)[:, None], logits.device)
        for each in (
            [each.temperature for each in params],
            [each.min_p for each in params],
            [each.top_p for each in params],
        )
    )
    weights = softmax_weights(logits, temperature)
    kept = weights >= min_p
    top_k = [each.top_k for each in params]
    if any(each > 0 for each in top_k) or any(each.top_p < 1 for each in params):
        wanted = [each if each > 0 else logits.shape[1] for each in top_k]
        most = sent(np.array(wanted, np.int64)[:, None], logits.device)
        kept = _of_rank(logits, weights, kept, most, top_p)
    random = [uniform(row.state.seed, len(row.output)) for row in rows]
    u = sent(np.array(random, np.float64)[:, None], logits.device)
    return at_share(torch.where(kept, weights, 0.0), u)


def softmax_weights(logits: torch.Tensor, temperature: torch.Tensor | float) -> torch.Tensor:
    """exp((l - max) / temperature) of logits [S, V]; what is no number weighs nothing."""
    finite = torch.where(logits.isnan(), -LARGEST, logits).clamp(-LARGEST, LARGEST)
    return torch.exp((finite - finite.amax(dim=1, keepdim=True)) / temperature)


def _of_rank(
    logits: torch.Tensor,
    weights: torch.Tensor,
    kept: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
) -> torch.Tensor:
    """Which of the kept tokens top-k and then top-p leave; all but [S, V] are [S, 1].

    Tokens rank by logit, equal ones by id.  The most likely token always stays.
    """
    numbers = torch.where(logits.isnan(), -torch.inf, logits)
    order = numbers.sort(dim=1, descending=True, stable=True).indices
    left = kept.gather(1, order)
    left &= left.cumsum(dim=1) <= top_k
    sums = torch.where(left, weights.gather(1, order), 0.0).double().cumsum(dim=1)
    enough = top_p.double() * sums[:, -1:]
    first = torch.searchsorted(sums, enough)  # the first rank whose sum is enough
    ranks = torch.arange(sums.shape[1], device=sums.device)
    left &= (ranks <= first) | (top_p >= 1)
    return torch.zeros_like(kept).scatter(1, order, left)


def at_share(weights: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """The first token id whose running sum of weights exceeds u [S, 1] times their total."""
    sums = weights.double().cumsum(dim=1)
    tokens = torch.searchsorted(sums, u * sums[:, -1:], right=True)[:, 0]
    ids = torch.arange(weights.shape[1], device=weights.device)
    last = torch.where(weights > 0, ids, 0).amax(dim=1)
    return torch.minimum(tokens, last)
