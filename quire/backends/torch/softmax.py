"""Attention over chunks of keys, from the oldest on, with a running softmax.

Source: arXiv:1805.02867 (the running maximum and sum).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from quire.backends.torch.visible_keys import KeyChunk, QueryGroup

__all__ = ["attend"]

Read = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
Score = Callable[[torch.Tensor, KeyChunk], torch.Tensor]


def attend(
    group: QueryGroup,
    queries: torch.Tensor,
    read: Read,
    score: Score,
    value_dim: int,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """[R, K, G, T, V] of queries [R, K, G, T, D]: softmax(score(q . k)) v over what is seen.

    read: blocks [., n] → keys [., L, K, D] and values [., L, K, V].  score: products
    [., K, G, T, L] of a chunk → scores.  sinks: [K, G], scores without a value.
    What is not seen changes nothing, even if it is no number.
    """
    heads = queries.shape[:4]
    total = queries.new_zeros((*heads, 1))
    highest = torch.full_like(total, -torch.inf)
    sums = queries.new_zeros((*heads, value_dim))
    spoilt = torch.zeros_like(total)
    if sinks is not None:
        highest[:] = sinks[None, :, :, None, None]
        total += 1
    for chunk in group.chunks():
        some = slice(0, chunk.requests)  # of the requests
        keys, values = read(chunk.blocks)
        products = _over_heads(queries[some], keys.permute(0, 2, 3, 1))
        seen = chunk.seen[:, None, None]
        scores = score(products, chunk).masked_fill(~seen, -torch.inf)
        top = torch.maximum(highest[some], scores.amax(dim=-1, keepdim=True))
        base = torch.where(top == -torch.inf, 0.0, top)
        weights, faded = torch.exp(scores - base), torch.exp(highest[some] - base)
        finite = torch.isfinite(values)
        clean = torch.where(finite, values, 0.0).transpose(1, 2)  # [., K, L, V]
        bad = (~finite.all(dim=-1)).float().transpose(1, 2)[..., None]  # [., K, L, 1]
        spoilt[some] += _over_heads(seen.float().expand(weights.shape), bad)
        sums[some] = sums[some] * faded + _over_heads(weights, clean)
        total[some] = total[some] * faded + weights.sum(dim=-1, keepdim=True)
        highest[some] = top
    return torch.where(spoilt > 0, torch.nan, sums / total)


def _over_heads(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """[R, K, G, T, a] @ [R, K, a, b], without a copy of the second for each of G heads."""
    groups = left.shape[2:4]
    return (left.flatten(2, 3) @ right).unflatten(2, groups)
