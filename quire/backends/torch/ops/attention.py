"""Attention over the paged cache."""

from __future__ import annotations

import numpy as np
import torch

from quire.backends.torch.registry import body
from quire.backends.torch.softmax import attend
from quire.backends.torch.step import Step
from quire.backends.torch.visible_keys import KeyChunk, QueryGroup, query_groups
from quire.ops.attention import PagedAttention
from quire.ops.latent import LatentAttention

__all__ = ["paged_attention", "query_factors"]


@body(PagedAttention)
def paged_attention(
    step: Step, op: PagedAttention, queries: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Group by group of requests."""
    queries = queries.float()  # what rotated them may have rounded them
    out = torch.empty_like(queries)
    sight = (op.window, op.chunk, op.bidirectional)
    for group in query_groups(step, sight, op.first_seen, op.bidirectional):
        out[group.rows] = _attend(step, op, group, queries[group.rows])
    return (out,)


def _attend(
    step: Step, op: PagedAttention, group: QueryGroup, queries: torch.Tensor
) -> torch.Tensor:
    requests, tokens = group.positions.shape
    heads = (op.kv_heads, op.heads // op.kv_heads)
    q = queries.view(requests, tokens, *heads, op.head_dim).permute(0, 2, 3, 1, 4)
    factors = query_factors(step, op, group)
    slopes = None if not op.slopes else _slopes(step, op).view(*heads, 1, 1)

    def score(products: torch.Tensor, chunk: KeyChunk) -> torch.Tensor:
        scores = products * factors[: chunk.requests]
        if op.softcap is not None:
            scores = torch.tanh(scores / op.softcap) * op.softcap
        if slopes is not None:
            scores = scores - slopes * chunk.distance[:, None, None].float()
        return scores

    sinks = None if op.sinks is None else step.weights.vector(op.sinks).view(heads)
    read = lambda blocks: step.kv_cache.read(op.layer, blocks)  # noqa: E731
    attended = attend(group, q, read, score, op.head_dim, sinks)
    return attended.permute(0, 3, 1, 2, 4).reshape(requests * tokens, -1)


def query_factors(
    step: Step, op: PagedAttention | LatentAttention, group: QueryGroup
) -> torch.Tensor:
    """The scale of each query, [R, 1, 1, T, 1]."""
    positions = group.host_positions
    factors = np.full(positions.shape, op.scale)
    if op.query_rule is not None:
        factors *= np.vectorize(op.query_rule.at, otypes=[np.float64])(positions)
    return step.put(factors.astype(np.float32))[:, None, None, :, None]


def _slopes(step: Step, op: PagedAttention) -> torch.Tensor:
    return step.once(("slopes", op.slopes), lambda: step.put(np.array(op.slopes, np.float32)))
