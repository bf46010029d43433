"""Rotates the parts of latent attention's queries and keys that turn, and stores what is cached.

A program takes one token, and of queries some of its heads.  Rows of the cache are those of
latent_attention.py; codes are those of quire/ops/kv_codes.py, one scale for the latent and one for
the rotated part.  A token with cell -1 is not stored.  Source: arXiv:2405.04434.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from quire.backends.torch.triton.codes import row_codes
from quire.backends.torch.triton.latent_attention import CachedRows
from quire.backends.torch.triton.launcher import Launcher
from quire.backends.torch.triton.rope_kv_write import rotated
from quire.backends.torch.triton.tiles import Tile

__all__ = ["rotate_heads", "rotate_parts", "store_latents", "write_latents"]

TOGETHER = 16
"""Heads of a program."""


def rotate_heads(
    gpu: Launcher,
    x: torch.Tensor,
    angles: torch.Tensor,
    out: torch.Tensor,
    *,
    is_interleaved: bool = False,
) -> None:
    """out [T, H, P] = x [T, H, P] turned by angles [T, P]; heads in any strides, P contiguous."""
    rows, heads, dims = x.shape
    block = triton.next_power_of_2(dims)
    gpu.run(
        rotate_parts, (rows, -(-heads // TOGETHER)), Tile(TOGETHER, block, 4, 1),
        x=x, angles=angles, out=out, x_row=x.stride(0), x_head=x.stride(1),
        angle_stride=angles.stride(0), out_row=out.stride(0), out_head=out.stride(1),
        HEADS=heads, DIMS=dims, INTERLEAVED=is_interleaved, TOGETHER=TOGETHER, BLOCK=block,
    )  # fmt: skip


def write_latents(
    gpu: Launcher,
    latents: torch.Tensor,
    keys: torch.Tensor,
    angles: torch.Tensor,
    cells: torch.Tensor,
    cache: CachedRows,
    *,
    is_interleaved: bool = False,
) -> None:
    """Store latents [T, C] and rotated keys [T, P] at cells [T] int32: block * B + offset in it."""
    rows, dims = keys.shape
    scales = cache.scales
    width, block = (triton.next_power_of_2(each) for each in (cache.rank, dims))
    gpu.run(
        store_latents, (rows,), Tile(1, width, 4, 1), latents=latents, keys=keys, angles=angles,
        cells=cells, cache=cache.rows, scales=scales, latent_stride=latents.stride(0),
        key_stride=keys.stride(0), angle_stride=angles.stride(0), row_block=cache.rows.stride(0),
        scale_block=0 if scales is None else scales.stride(0),
        RANK=cache.rank, DIMS=dims, INTERLEAVED=is_interleaved, BLOCK_TOKENS=cache.rows.shape[1],
        BLOCK_C=width, BLOCK=block,
    )  # fmt: skip


@triton.jit
def rotate_parts(
    x, angles, out, x_row, x_head, angle_stride, out_row, out_head, HEADS: tl.constexpr,
    DIMS: tl.constexpr, INTERLEAVED: tl.constexpr, TOGETHER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Token program_id(0), heads from program_id(1) * TOGETHER on."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * TOGETHER + tl.arange(0, TOGETHER)[:, None]
    turned = rotated(
        x + token * x_row + head * x_head, angles + token * angle_stride, head < HEADS, DIMS, DIMS,
        INTERLEAVED, BLOCK,
    )  # fmt: skip
    dim = tl.arange(0, BLOCK)[None, :]
    to = out + token * out_row + head * out_head + dim
    tl.store(to, turned, mask=(head < HEADS) & (dim < DIMS))


@triton.jit
def _store_part(x, inside, to, scale_to):
    """Store the numbers [1, n] at `to` [1, n], or their codes, and what these stand for."""
    if scale_to is None:
        tl.store(to, x, mask=inside)
    else:
        codes, scale = row_codes(x, inside, to.dtype.element_ty)
        tl.store(to, codes, mask=inside)
        tl.store(scale_to + tl.arange(0, 1), scale)


@triton.jit
def store_latents(
    latents, keys, angles, cells, cache, scales, latent_stride, key_stride, angle_stride, row_block,
    scale_block, RANK: tl.constexpr, DIMS: tl.constexpr,
    INTERLEAVED: tl.constexpr, BLOCK_TOKENS: tl.constexpr, BLOCK_C: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Token program_id(0)."""
    token = tl.program_id(0).to(tl.int64)
    cell = tl.load(cells + token)
    if cell < 0:
        return
    block = (cell // BLOCK_TOKENS).to(tl.int64)
    offset = cell % BLOCK_TOKENS
    row = cache + block * row_block + offset * (RANK + DIMS)
    dim, turned = tl.arange(0, BLOCK_C)[None, :], tl.arange(0, BLOCK)[None, :]
    latent = tl.load(latents + token * latent_stride + dim, mask=dim < RANK, other=0.0)
    one = tl.full([1, 1], 0, tl.int32)
    key = rotated(
        keys + token * key_stride + one, angles + token * angle_stride, one == 0, DIMS, DIMS,
        INTERLEAVED, BLOCK,
    )  # fmt: skip
    to_scale, to_rotated_scale = None, None
    if scales is not None:
        to_scale = scales + block * scale_block + offset
        to_rotated_scale = to_scale + BLOCK_TOKENS
    _store_part(latent.to(tl.float32), dim < RANK, row + dim, to_scale)
    _store_part(key, turned < DIMS, row + RANK + turned, to_rotated_scale)
