"""Multi-head latent attention: nothing is ever expanded."""

from __future__ import annotations

import numpy as np
import torch

from quire.backends.torch.ops.attention import query_factors
from quire.backends.torch.ops.rope import rotated
from quire.backends.torch.registry import body
from quire.backends.torch.softmax import attend
from quire.backends.torch.step import Step
from quire.backends.torch.visible_keys import KeyChunk, query_groups
from quire.ops.latent import LatentAttention, LatentQueries, LatentValues, LatentWrite

__all__ = ["latent_attention", "latent_queries", "latent_values", "latent_write"]


@body(LatentWrite, captured="always")
def latent_write(
    step: Step,
    op: LatentWrite,
    latents: torch.Tensor,
    keys: torch.Tensor,
    angles: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """All tokens at once."""
    rows = torch.cat([latents, rotated(keys, angles, 1, op.rope_dims, op.pairing)], dim=1)
    step.kv_cache.write_latents(op.layer, step.blocks, step.offsets, rows)
    return ()


@body(LatentQueries, captured="always")
def latent_queries(
    step: Step, op: LatentQueries, queries: torch.Tensor, angles: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Head by head: q [N] @ keys [N, C]."""
    rows = len(queries)
    q = queries.view(rows, op.heads, -1)  # [T, H, N + P]
    dims = q.shape[2] - op.rope_dims
    matrices = _of_heads(step, op.weight, op.heads)[:, :dims]  # [H, N, C]
    latent = torch.einsum("thn,hnc->thc", q[:, :, :dims].to(matrices.dtype), matrices).float()
    turned = rotated(q[:, :, dims:].flatten(1), angles, op.heads, op.rope_dims, op.pairing)
    return (torch.cat([latent, turned.view(rows, op.heads, -1)], dim=2).flatten(1),)


@body(LatentAttention)
def latent_attention(
    step: Step, op: LatentAttention, queries: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Group by group of requests; all heads share the rows as one kv head."""
    queries = queries.float()  # what projected them may have rounded them
    out = queries.new_empty((len(queries), op.heads * op.rank))

    def read(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = step.kv_cache.read_latents(op.layer, blocks)[:, :, None]  # [R, L, 1, C + P]
        return rows, rows[..., : op.rank]

    for group in query_groups(step, (None, None, False), np.zeros_like):
        requests, tokens = group.positions.shape
        q = queries[group.rows].view(requests, tokens, 1, op.heads, -1).permute(0, 2, 3, 1, 4)
        factors = query_factors(step, op, group)

        def score(
            products: torch.Tensor, chunk: KeyChunk, factors: torch.Tensor = factors
        ) -> torch.Tensor:
            return products * factors[: chunk.requests]

        attended = attend(group, q, read, score, op.rank)
        out[group.rows] = attended.permute(0, 3, 1, 2, 4).reshape(requests * tokens, -1)
    return (out,)


@body(LatentValues, captured="always")
def latent_values(step: Step, op: LatentValues, attended: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Head by head: values [V, C] @ latent [C]."""
    latents = attended.view(len(attended), op.heads, -1)  # [T, H, C]
    matrices = _of_heads(step, op.weight, op.heads)[:, -op.value_dims :]  # [H, V, C]
    values = torch.einsum("thc,hvc->thv", latents.to(matrices.dtype), matrices)
    return (values.float().flatten(1),)


def _of_heads(step: Step, name: str, heads: int) -> torch.Tensor:
    """A weight [H * (N + V), C] as [H, N + V, C]."""
    return step.weights.matrix(name).widened(slice(None)).unflatten(0, (heads, -1))
