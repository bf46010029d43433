"""Which rows a program of a mixture takes: tiles of pairs of a row and an expert, by experts.

A pair stands for a row that chose an expert.  Pairs of one expert stand side by side, and a tile
has pairs of one expert only.  Nothing of this is read by the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from quire.backends.torch.triton.launcher import Launcher
from quire.backends.torch.triton.tiles import Tile, row_class

__all__ = [
    "ExpertRows",
    "ExpertTiles",
    "expert_tiles",
    "offsets_of",
    "pair_arguments",
    "pairs_of_program",
]


@dataclass(frozen=True)
class ExpertTiles:
    """Pairs by experts: pair i of [rows * top_k] is row i // top_k's.

    order: int32 [pairs], the pairs in the order of their experts.  tiles: int32 [any, 3], expert,
    first and end of a tile in that order; one with expert -1 is skipped.  shapes: the class of
    shapes whose tile this is.
    """

    order: torch.Tensor
    tiles: torch.Tensor
    shapes: str

    def of(self, members: torch.Tensor | None) -> ExpertTiles:
        """The same where tiles of other experts are skipped.  members: bool [X]; None: all."""
        if members is None:
            return self
        expert = self.tiles[:, :1]
        is_one = members[expert.clamp(min=0).long()] & (expert >= 0)
        kept = torch.cat([torch.where(is_one, expert, -1), self.tiles[:, 1:]], dim=1)
        return ExpertTiles(self.order, kept, self.shapes)


@dataclass(frozen=True)
class ExpertRows:
    """What a product of a mixture reads and writes, pair by pair in the order of experts.

    offsets: int64 [any, X], see offsets_of.  Pair i reads x[in_rows[i]] and writes
    out[out_rows[i]] (int32; None: row i), times factors[i] (float32).
    """

    tiles: ExpertTiles
    offsets: torch.Tensor
    in_rows: torch.Tensor | None = None
    out_rows: torch.Tensor | None = None
    factors: torch.Tensor | None = None


def offsets_of(tensors: Sequence[Sequence[torch.Tensor | None]]) -> list[list[int]]:
    """Of each kind of tensor, how many numbers each expert's lies behind the first one's.

    Experts need not stand in one tensor: kernels go from one to the next.  tensors: [X][kinds].
    """
    kinds = list(zip(*tensors, strict=True))
    return [
        [
            0 if each is None else (each.data_ptr() - kind[0].data_ptr()) // each.element_size()
            for each in kind
        ]
        for kind in kinds
    ]


def expert_tiles(gpu: Launcher, kernel: str, ids: torch.Tensor, experts: int) -> ExpertTiles:
    """The tiles of a kernel for ids int [rows, top_k]; their number depends on the shapes alone.

    What is no id of the X experts is an expert of other ranks, and has no tile.
    """
    pairs = ids.numel()
    shapes = row_class(-(-pairs // experts))
    size = gpu.tile(kernel, shapes).rows
    flat = ids.reshape(-1).long()
    flat = torch.where((flat >= 0) & (flat < experts), flat, experts)
    order = torch.argsort(flat, stable=True)
    counts = torch.zeros(experts + 1, dtype=torch.long, device=ids.device)
    counts.scatter_add_(0, flat, torch.ones_like(flat))
    counts = counts[:experts]
    ends, tile_ends = counts.cumsum(0), ((counts + size - 1) // size).cumsum(0)
    tile = torch.arange(pairs // size + min(pairs, experts), device=ids.device)
    expert = torch.searchsorted(tile_ends, tile, right=True)
    known = expert.clamp(max=experts - 1)
    tiles_before = tile_ends[known] - (counts[known] + size - 1) // size
    first = ends[known] - counts[known] + (tile - tiles_before) * size
    expert = torch.where(expert < experts, expert, -1)
    tiles = torch.stack([expert, first, ends[known]], dim=1)
    return ExpertTiles(order.int(), tiles.int(), shapes)


def pair_arguments(groups: ExpertRows | None, rows: int, tile: Tile) -> tuple[int, dict[str, Any]]:
    """Tiles of rows or pairs, and what a product of experts is started with; None: of all rows."""
    names = ("tiles", "offsets", "in_rows", "out_rows", "factors")
    if groups is None:
        return -(-rows // tile.rows), {**dict.fromkeys(names), "experts": 0, "rows": rows}
    tiles = groups.tiles
    found = (tiles.tiles, groups.offsets, groups.in_rows, groups.out_rows, groups.factors)
    counts = {"experts": groups.offsets.shape[1], "rows": len(tiles.order)}
    return len(tiles.tiles), {**dict(zip(names, found, strict=True)), **counts}


@triton.jit
def pairs_of_program(tiles, rows, place, BLOCK_M: tl.constexpr):
    """Of the tile at a place: expert, first row and the one behind the last; without tiles 0."""
    expert = tl.full([], 0, tl.int32)
    first = place * BLOCK_M
    end = rows
    if tiles is not None:
        expert = tl.load(tiles + 3 * place)
        first = tl.load(tiles + 3 * place + 1)
        end = tl.load(tiles + 3 * place + 2)
    return expert, first, end
