"""Rotations by position, and the write of keys and values."""

from __future__ import annotations

import torch

from quire.backends.torch.registry import body
from quire.backends.torch.step import Step
from quire.ops.rope import KvWrite, RopeAngles, Rotate

__all__ = ["kv_write", "rope_angles", "rotate", "rotated"]


@body(RopeAngles, captured="always")
def rope_angles(step: Step, op: RopeAngles) -> tuple[torch.Tensor, ...]:
    """[cos | sin] of position * frequency, times a factor; the tables live on the host."""
    rows = step.array(
        ("frequencies", op.table), lambda batch: batch.frequencies[op.table][batch.rope_rows]
    )
    positions = step.positions[:, None]
    if op.axes and step.batch.axis_positions is not None:
        positions = step.put(step.batch.axis_positions[:, list(op.axes)])
    angles = positions.float() * rows[:, :-1]
    return (torch.cat([angles.cos(), angles.sin()], dim=1) * rows[:, -1:],)


@body(Rotate, captured="always")
def rotate(
    step: Step, op: Rotate, x: torch.Tensor, angles: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """(a, b) → (a cos - b sin, b cos + a sin)."""
    return (rotated(x, angles, op.heads, op.dims, op.pairing),)


def rotated(
    x: torch.Tensor, angles: torch.Tensor, heads: int, dims: int, pairing: str
) -> torch.Tensor:
    """x [T, heads * D] with the first `dims` values of every head turned."""
    x = x.unflatten(1, (heads, -1))  # [T, heads, D]
    cos, sin = angles[:, None, : dims // 2], angles[:, None, dims // 2 :]  # [T, 1, dims/2]
    turning, rest = x[:, :, :dims], x[:, :, dims:]
    if pairing == "half":
        a, b = turning.chunk(2, dim=-1)
        turned = torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
    else:
        a, b = turning[..., ::2], turning[..., 1::2]
        turned = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(2)
    return torch.cat([turned, rest], dim=-1).flatten(1)


@body(KvWrite, captured="always")
def kv_write(
    step: Step, op: KvWrite, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """All tokens at once."""
    keys, values = (x.unflatten(1, (op.kv_heads, -1)) for x in (keys, values))  # [T, K, D]
    step.kv_cache.write(op.layer, step.blocks, step.offsets, keys, values)
    return ()
