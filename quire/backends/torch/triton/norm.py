"""Norms of rows or of their heads, with the residual sum before them.

One program takes whole rows (or, of heads, a tile of them), reads them once and writes what it
makes: the sum and the normed rows.  All in float32 between reading and writing: the
norm is that of the sum before it is rounded.  Sources: arXiv:1910.07467, arXiv:1607.06450.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import triton
import triton.language as tl

from quire.backends.torch.triton.launcher import Launcher
from quire.backends.torch.triton.tiles import Tile

__all__ = ["NormRule", "norm", "norm_rows"]

TILE_ELEMENTS = 1024
"""Short rows, such as heads, are taken together up to so many numbers."""


@dataclass(frozen=True)
class NormRule:
    """What quire.ops.norm says of a norm: its kind, and its weights of the width of a segment.

    wide_weight: the weight is as wide as all segments together.
    """

    kind: Literal["rms", "layer"]
    eps: float
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    offset: float = 0.0
    heads: int = 1
    wide_weight: bool = False


def norm(
    gpu: Launcher,
    x: torch.Tensor,
    rule: NormRule,
    out: torch.Tensor,
    *,
    residual: torch.Tensor | None = None,
    sum_out: torch.Tensor | None = None,
    scale: float = 1.0,
    before: NormRule | None = None,
) -> None:
    """out [rows, W] = norm(x), or norm(sum) where sum_out = x * scale + residual.

    before: a norm that x goes through first.  out may have any float dtype.  Rows may be strided;
    out, sum_out and x may be the same.
    """
    rows, width = x.shape
    segment = width // rule.heads
    block = triton.next_power_of_2(segment)
    together = max(1, TILE_ELEMENTS // block)
    first = before if before is not None else NormRule("rms", 0.0)
    tile = Tile(together, block, _warps(together * block), 1)
    gpu.run(
        norm_rows, (-(-rows * rule.heads // together),), tile,
        x=x, residual=residual, sum_out=sum_out, out=out,
        weight=rule.weight, bias=rule.bias, first_weight=first.weight, first_bias=first.bias,
        segments=rows * rule.heads, eps=rule.eps, offset=rule.offset,
        first_eps=first.eps, first_offset=first.offset, scale=scale,
        x_stride=x.stride(0), residual_stride=0 if residual is None else residual.stride(0),
        sum_stride=0 if sum_out is None else sum_out.stride(0), out_stride=out.stride(0),
        HEADS=rule.heads, WIDTH=segment, LAYER=rule.kind == "layer", HAS_FIRST=before is not None,
        FIRST_LAYER=first.kind == "layer", WIDE=rule.wide_weight, SEGMENTS=together, BLOCK=block,
    )  # fmt: skip


def _warps(elements: int) -> int:
    """About 16 numbers a thread, in 1 to 16 warps."""
    return max(1, min(16, elements // 512))


@triton.jit
def _normed(x, inside, weight, bias, place, eps, offset, WIDTH: tl.constexpr, LAYER: tl.constexpr):
    """The norm of each row of a tile [SEGMENTS, BLOCK] float32, whose padding is 0.

    place: [SEGMENTS, BLOCK], of the tile's weights.
    """
    if LAYER:
        mean = tl.sum(x, 1) / WIDTH
        x = tl.where(inside, x - mean[:, None], 0.0)
    x = x / tl.sqrt_rn(tl.sum(x * x, 1) / WIDTH + eps)[:, None]
    if weight is not None:
        x = x * (tl.load(weight + place, mask=inside, other=0.0).to(tl.float32) + offset)
    if bias is not None:
        x = x + tl.load(bias + place, mask=inside, other=0.0).to(tl.float32)
    return x


@triton.jit(do_not_specialize=["segments"])
def norm_rows(
    x, residual, sum_out, out, weight, bias, first_weight, first_bias, segments,
    eps, offset, first_eps, first_offset, scale, x_stride, residual_stride, sum_stride, out_stride,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, LAYER: tl.constexpr, HAS_FIRST: tl.constexpr,
    FIRST_LAYER: tl.constexpr, WIDE: tl.constexpr, SEGMENTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """SEGMENTS rows, or heads of rows, of WIDTH numbers each."""
    segment = tl.program_id(0).to(tl.int64) * SEGMENTS + tl.arange(0, SEGMENTS)
    column = tl.arange(0, BLOCK)
    inside = (segment < segments)[:, None] & (column < WIDTH)[None, :]
    row = (segment // HEADS)[:, None]
    place = ((segment % HEADS) * WIDTH)[:, None] + column[None, :]
    own = tl.zeros_like(place) + column[None, :]
    values = tl.load(x + row * x_stride + place, mask=inside, other=0.0).to(tl.float32)
    if HAS_FIRST:
        values = _normed(
            values, inside, first_weight, first_bias, own, first_eps, first_offset, WIDTH,
            FIRST_LAYER,
        )  # fmt: skip
    if residual is not None:
        more = tl.load(residual + row * residual_stride + place, mask=inside, other=0.0)
        values = values * scale + more.to(tl.float32)
        tl.store(sum_out + row * sum_stride + place, values, mask=inside)
    values = _normed(
        values, inside, weight, bias, place if WIDE else own, eps, offset, WIDTH, LAYER
    )
    tl.store(out + row * out_stride + place, values, mask=inside)
