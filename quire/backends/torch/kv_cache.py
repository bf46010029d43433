"""The KV cache on a device: where keys, values and latents stand, and how one reads and writes.

A block has the bytes that quire.ops.kv_cache says, in an order of its own, each position's numbers
side by side: keys [B, K, D], values [B, K, D], and behind them, where the format has codes, their
scales (and minimums) [F, 2, B, K]: of keys, then of values.  int4 has two codes in a byte.  Blocks
of latents stand as quire.ops.latent_cache says.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from quire.backends.torch.arrays import DTYPES
from quire.backends.torch.kv_codes import from_codes, to_codes
from quire.ops.kv_cache import FACT_BYTES, CacheLayerShape, KvLayerShape, KvLayout
from quire.ops.kv_codes import NUM_FACTS
from quire.ops.latent_cache import LatentLayerShape

__all__ = ["CachedHeads", "CachedLatents", "DeviceKvCache"]


class CachedHeads(NamedTuple):
    """Views of a layer: keys and values [blocks, B, K, D]; of codes uint8, and D/2 of int4.

    facts: [blocks, F, 2, B, K] float32, none where the format is one of numbers.
    """

    keys: torch.Tensor
    values: torch.Tensor
    facts: torch.Tensor | None


class CachedLatents(NamedTuple):
    """Views of a layer: rows [blocks, B, C + P]; scales [blocks, 2, B] of their parts if int8."""

    rows: torch.Tensor
    scales: torch.Tensor | None


class DeviceKvCache:
    """The arena [bytes] of a layout on a device.

    blocks: of each layer [num_blocks, bytes], views of the arena.  spare: the block that is
    nobody's, where tokens stand that pad a step; -1 where steps are not padded.
    """

    def __init__(
        self, layout: KvLayout, num_blocks: int, arena: torch.Tensor, spare: int = -1
    ) -> None:
        self.layout = layout
        self.spare = spare
        self.blocks = [
            arena[start : start + size * num_blocks].view(num_blocks, size)
            for start, size in zip(
                layout.layer_offsets(num_blocks), layout.block_bytes, strict=True
            )
        ]
        self._layers = [
            _views(each, shape, layout)
            for each, shape in zip(self.blocks, layout.layers, strict=True)
        ]

    def heads(self, layer: int) -> CachedHeads:
        """The views of a layer of keys and values."""
        found = self._layers[layer]
        assert isinstance(found, CachedHeads)
        return found

    def latents(self, layer: int) -> CachedLatents:
        """The views of a layer of latents."""
        found = self._layers[layer]
        assert isinstance(found, CachedLatents)
        return found

    def write(
        self,
        layer: int,
        blocks: torch.Tensor,
        offsets: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> None:
        """Store the keys and values [T, K, D] of tokens at blocks and offsets [T]."""
        views, format = self.heads(layer), self.layout.format
        for part, (view, numbers) in enumerate(((views.keys, keys), (views.values, values))):
            if views.facts is None:
                view[blocks, offsets] = numbers.to(view.dtype)
            else:
                view[blocks, offsets], facts = to_codes(numbers, format)
                views.facts[blocks, :, part, offsets] = facts.movedim(0, 1)

    def read(self, layer: int, blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [R, n * B, K, D], float32, of blocks [R, n]."""
        views, format = self.heads(layer), self.layout.format
        head_dim = self._head_dim(layer)
        found = []
        for part, view in enumerate((views.keys, views.values)):
            numbers = view[blocks]  # [R, n, B, K, D]
            if views.facts is None:
                numbers = numbers.float()
            else:
                facts = views.facts[blocks][:, :, :, part].movedim(2, 0)
                numbers = from_codes(numbers, facts, format, head_dim)
            found.append(numbers.flatten(1, 2))
        return found[0], found[1]

    def write_latents(
        self, layer: int, blocks: torch.Tensor, offsets: torch.Tensor, rows: torch.Tensor
    ) -> None:
        """Store the rows [T, C + P] of tokens at blocks and offsets [T]."""
        views, rank = self.latents(layer), self._rank(layer)
        if views.scales is None:
            views.rows[blocks, offsets] = rows.to(views.rows.dtype)
            return
        parts = [to_codes(part, "int8") for part in (rows[:, :rank], rows[:, rank:])]
        views.rows[blocks, offsets] = torch.cat([codes for codes, _ in parts], dim=1)
        views.scales[blocks, :, offsets] = torch.cat([facts for _, facts in parts]).T

    def read_latents(self, layer: int, blocks: torch.Tensor) -> torch.Tensor:
        """The rows [R, n * B, C + P], float32, of blocks [R, n]."""
        views, rank = self.latents(layer), self._rank(layer)
        rows = views.rows[blocks]  # [R, n, B, C + P]
        if views.scales is None:
            return rows.float().flatten(1, 2)
        scales = views.scales[blocks]  # [R, n, 2, B]
        parts = [
            from_codes(part, scales[None, :, :, i], "int8", part.shape[-1])
            for i, part in enumerate((rows[..., :rank], rows[..., rank:]))
        ]
        return torch.cat(parts, dim=-1).flatten(1, 2)

    def _head_dim(self, layer: int) -> int:
        shape = self.layout.layers[layer]
        assert isinstance(shape, KvLayerShape)
        return shape.head_dim

    def _rank(self, layer: int) -> int:
        shape = self.layout.layers[layer]
        assert isinstance(shape, LatentLayerShape)
        return shape.rank


def _views(
    blocks: torch.Tensor, shape: CacheLayerShape, layout: KvLayout
) -> CachedHeads | CachedLatents | None:
    """The views of blocks [blocks, bytes]; None where a layer caches nothing."""
    if not blocks.shape[1]:
        return None
    if isinstance(shape, LatentLayerShape):
        return _latents(blocks, shape, layout)
    assert isinstance(shape, KvLayerShape)
    return _heads(blocks, shape, layout)


def _heads(blocks: torch.Tensor, shape: KvLayerShape, layout: KvLayout) -> CachedHeads:
    tokens, heads, format = layout.block_tokens, shape.kv_heads, layout.format
    num_facts = NUM_FACTS.get(format, 0)
    dtype = torch.uint8 if num_facts else DTYPES[format]
    width = -(-shape.head_dim // 2) if format == "int4" else shape.head_dim
    size = tokens * heads * width * dtype.itemsize
    keys, values = (
        blocks[:, start : start + size].view(dtype).unflatten(1, (tokens, heads, width))
        for start in (0, size)
    )
    if not num_facts:
        return CachedHeads(keys, values, None)
    facts = blocks[:, 2 * size : 2 * size + 2 * num_facts * FACT_BYTES * tokens * heads]
    return CachedHeads(
        keys, values, facts.view(torch.float32).unflatten(1, (num_facts, 2, tokens, heads))
    )


def _latents(blocks: torch.Tensor, shape: LatentLayerShape, layout: KvLayout) -> CachedLatents:
    tokens, width = layout.block_tokens, shape.numbers
    if layout.format != "int8":
        rows = blocks.view(DTYPES[layout.format]).unflatten(1, (tokens, width))
        return CachedLatents(rows, None)
    size = tokens * width
    scales = blocks[:, size:].view(torch.float32).unflatten(1, (2, tokens))
    return CachedLatents(blocks[:, :size].unflatten(1, (tokens, width)), scales)
