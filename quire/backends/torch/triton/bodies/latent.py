"""Multi-head latent attention: nothing is ever expanded, and what is cached is read once."""

from __future__ import annotations

import torch

from quire.backends.torch.matrix import CodedMatrix
from quire.backends.torch.step import Step
from quire.backends.torch.triton.attention import AttentionInputs
from quire.backends.torch.triton.bodies.attention_step import (
    attention_inputs,
    cells,
    query_dtype,
)
from quire.backends.torch.triton.bodies.registering import gpu_of, rows_like, triton_body
from quire.backends.torch.triton.head_matmul import head_matmul
from quire.backends.torch.triton.latent_attention import (
    LARGEST_RANK,
    CachedRows,
    attend_latents,
    key_chunk,
    latent_tile,
)
from quire.backends.torch.triton.latent_rows import rotate_heads, write_latents
from quire.ops.attention import PagedAttention
from quire.ops.latent import LatentAttention, LatentQueries, LatentValues, LatentWrite

__all__ = ["attend_latent", "latent_inputs", "project_queries", "project_values", "write_latent"]

LARGEST_ROTATED = 64


def _declines(op: LatentAttention) -> str | None:
    if op.rank > LARGEST_RANK or op.rope_dims > LARGEST_ROTATED:
        return (
            f"latents of {op.rank} and {op.rope_dims} rotated numbers do not fit; "
            f"Triton's have {LARGEST_RANK} and {LARGEST_ROTATED} at most"
        )
    return None


@triton_body(LatentWrite)
def write_latent(
    step: Step, op: LatentWrite, latents: torch.Tensor, keys: torch.Tensor, angles: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """All tokens at once."""
    cache = _cached_rows(step, op.layer, latents.shape[1])
    write_latents(
        gpu_of(step), latents, keys, angles, cells(step), cache,
        is_interleaved=op.pairing == "interleaved",
    )  # fmt: skip
    return ()


@triton_body(LatentQueries)
def project_queries(
    step: Step, op: LatentQueries, queries: torch.Tensor, angles: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Head by head, as attention reads them: q [N] @ keys [N, C], and the rotated part."""
    gpu, q = gpu_of(step), queries.unflatten(1, (op.heads, -1))  # [T, H, N + P]
    dims = q.shape[2] - op.rope_dims
    out = rows_like(q, op.heads * (op.rank + op.rope_dims), query_dtype(step))
    made = out.unflatten(1, (op.heads, -1))
    keys = _of_heads(step, op.weight, op.heads)[:, :dims]  # [H, N, C]
    head_matmul(gpu, q[..., :dims], keys.mT, made[..., : op.rank])
    rotate_heads(
        gpu, q[..., dims:], angles, made[..., op.rank :],
        is_interleaved=op.pairing == "interleaved",
    )  # fmt: skip
    return (out,)


@triton_body(LatentAttention, declines=_declines, captured="decode")
def attend_latent(
    step: Step, op: LatentAttention, queries: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """All requests at once, prompts and single tokens alike."""
    gpu, queries = gpu_of(step), queries.to(query_dtype(step))
    inputs = latent_inputs(step, op, latent_tile(gpu, queries.dtype).rows)
    out = rows_like(queries, op.heads * op.rank)
    cache = _cached_rows(step, op.layer, op.rank)
    attend_latents(gpu, queries, cache, inputs, op.heads, op.scale, out)
    return (out,)


def latent_inputs(step: Step, op: LatentAttention, rows: int) -> AttentionInputs:
    """The step as attention reads it, in tiles of so many rows."""
    tile_heads = min(op.heads, rows)
    parts = -(-op.heads // tile_heads)  # programs that share a request's rows, as if its kv heads
    rule = PagedAttention(op.layer, op.heads, parts, op.rank, op.scale, query_rule=op.query_rule)
    return attention_inputs(step, rule, rows // tile_heads, key_chunk(op.heads))


@triton_body(LatentValues)
def project_values(
    step: Step, op: LatentValues, attended: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Head by head: values [V, C] @ latent [C]."""
    out = rows_like(attended, op.heads * op.value_dims)
    matrices = _of_heads(step, op.weight, op.heads)[:, -op.value_dims :]  # [H, V, C]
    latents, made = (each.unflatten(1, (op.heads, -1)) for each in (attended, out))
    head_matmul(gpu_of(step), latents, matrices, made)
    return (out,)


def _cached_rows(step: Step, layer: int, rank: int) -> CachedRows:
    """A layer's latents as the kernels read and write them."""
    return step.once(("triton latents", layer), lambda: _views(step, layer, rank))


def _views(step: Step, layer: int, rank: int) -> CachedRows:
    found = step.kv_cache.latents(layer)
    rows = found.rows if found.scales is None else found.rows.view(torch.int8)
    return CachedRows(rows, rank, found.scales)


def _of_heads(step: Step, name: str, heads: int) -> torch.Tensor:
    """A weight [H * (N + V), C] as [H, N + V, C]; codes are widened, in the dtype of products."""
    matrix = step.weights.matrix(name)
    numbers = matrix.widened(slice(None))
    if isinstance(matrix, CodedMatrix):
        numbers = numbers.to(matrix.dtype)
    return numbers.unflatten(0, (heads, -1))
