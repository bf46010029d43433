"""Rotations by position, and the write of keys and values."""

from __future__ import annotations

import torch

from quire.backends.torch.step import Step
from quire.backends.torch.triton.bodies.attention_step import cached_heads, cells, query_dtype
from quire.backends.torch.triton.bodies.registering import gpu_of, rows_like, triton_body
from quire.backends.torch.triton.rope_kv_write import rotate_kv_write
from quire.ops.rope import RotateKvWrite

__all__ = ["rotate_and_write"]


def _declines(op: RotateKvWrite) -> str | None:
    same = (op.query.dims, op.query.pairing) == (op.key.dims, op.key.pairing)
    return None if same else "queries and keys turn differently"


@triton_body(RotateKvWrite, declines=_declines)
def rotate_and_write(
    step: Step,
    op: RotateKvWrite,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    angles: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """Rotated queries, as attention reads them; keys and values go to the cache."""
    out = rows_like(queries, queries.shape[1], query_dtype(step))
    rotate_kv_write(
        gpu_of(step), queries, keys, values, angles, cells(step),
        cached_heads(step, op.write.layer), out, is_interleaved=op.query.pairing == "interleaved",
    )  # fmt: skip
    return (out,)
