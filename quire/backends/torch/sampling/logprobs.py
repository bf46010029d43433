"""Log-probabilities of tokens and of the most likely ones, as the model gave them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from quire.backends.torch.sampling.draw import softmax_weights
from quire.outputs import Logprob

__all__ = ["entries_of", "logprobs_of"]


def logprobs_of(
    logits: torch.Tensor, tokens: torch.Tensor, told: torch.Tensor, width: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of each row of logits [S, V] its token [S], then the most likely ones.

    told: [S], how many of these tokens a row wants to know of, 0: none; width at most, which all
    get here.  Returns their ids and log-probabilities, [S, width], and the ranks of the tokens,
    [S]; what stands for a token below 0, or was not asked for, has no meaning.
    """
    numbers = torch.where(logits.isnan(), -torch.inf, logits)
    order = numbers.sort(dim=1, descending=True, stable=True).indices
    highest = numbers.amax(dim=1, keepdim=True).double()
    total = softmax_weights(logits, 1.0).double().sum(dim=1, keepdim=True)
    told = tokens[:, None].clamp(min=0)
    ranks = (order == told).int().argmax(dim=1) + 1
    listed = torch.cat([told, order[:, : width - 1]], dim=1)
    return listed, logits.gather(1, listed).double() - (highest + total.log()), ranks


def entries_of(
    listed: torch.Tensor, logprobs: torch.Tensor, ranks: torch.Tensor, counts: Sequence[int]
) -> list[dict[int, Logprob]]:
    """What logprobs_of found, as a request is told it: of each row as many as it wants."""
    found = zip(listed.tolist(), logprobs.tolist(), ranks.tolist(), counts, strict=True)
    return [_entries(ids, values, rank, count) for ids, values, rank, count in found]


def _entries(ids: list[int], values: list[float], rank: int, count: int) -> dict[int, Logprob]:
    entries = {ids[0]: Logprob(values[0], rank)}
    for place in range(1, min(count, len(ids) - 1) + 1):
        if ids[place] >= 0:  # else there are no more numbers
            entries.setdefault(ids[place], Logprob(values[place], place))
    return entries
