"""The experts of each token, and how much each counts."""

from __future__ import annotations

import torch

from quire.backends.torch.registry import body
from quire.backends.torch.step import Step
from quire.ops.routing import RouteTokens

__all__ = ["route_tokens"]


@body(RouteTokens, captured="always")
def route_tokens(step: Step, op: RouteTokens, logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Score, rank, choose, weigh."""
    if op.scoring == "sparsemixer":
        ids, weights = _sparsemixer(op, logits)
    else:
        scores = torch.sigmoid(logits) if op.scoring == "sigmoid" else logits.softmax(dim=1)
        ids = _best(_rankings(step, op, logits, scores), op.top_k)
        weights = scores.gather(1, ids)
    ids, order = ids.sort(dim=1)
    weights = weights.gather(1, order)
    if op.normalised:
        weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=op.least_sum)
    return (torch.cat([ids.float(), weights * op.scale], dim=1),)


def _rankings(
    step: Step, op: RouteTokens, logits: torch.Tensor, scores: torch.Tensor
) -> torch.Tensor:
    if op.bias is None and op.groups is None:
        return logits
    rankings = scores if op.bias is None else scores + step.weights.vector(op.bias)
    if op.groups is None:
        return rankings
    grouped = rankings.unflatten(1, (op.groups.count, -1))  # [rows, groups, experts of one]
    most = 2 if op.groups.score == "top2_sum" else 1
    best = grouped.sort(dim=2, descending=True).values[..., :most].sum(dim=2)
    is_open = torch.zeros_like(best, dtype=torch.bool)
    is_open.scatter_(1, _best(best, op.groups.chosen), True)
    return torch.where(is_open[..., None], grouped, -torch.inf).flatten(1)


def _sparsemixer(op: RouteTokens, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One expert after the other, each weighed among those whose logits are near enough."""
    left = torch.nan_to_num(logits, nan=torch.finfo(torch.float32).min, neginf=-torch.inf)
    ids, weights = [], []
    for _ in range(op.top_k):
        chosen = _best(left, 1)
        top = left.gather(1, chosen)
        size = torch.maximum(logits.abs(), top)
        is_near = ~((top - logits) / size > 2 * op.jitter) & ~torch.isneginf(left)
        total = torch.where(is_near, torch.exp(logits - top), 0.0).sum(dim=1, keepdim=True)
        ids.append(chosen)
        weights.append(1 / total)
        left = left.scatter(1, chosen, -torch.inf)
    return torch.cat(ids, dim=1), torch.cat(weights, dim=1)


def _best(values: torch.Tensor, count: int) -> torch.Tensor:
    """The columns of the highest values of each row, best first, the first among equals.

    What is no number comes last.
    """
    ranked = torch.where(values.isnan(), -torch.inf, values)
    return ranked.sort(dim=1, descending=True, stable=True).indices[:, :count]
