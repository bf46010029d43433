"""The paged KV cache: its layout in one arena of bytes, and slow reads and writes of it.

Layer l, block b holds the keys of all kv heads as [K, D, B] and then the values as [K, B, D], so
that a query meets B keys with one broadcast per dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quire.ops.aligned import aligned_zeros
from quire.ops.number_formats import from_float32, storage_dtype, to_float32

__all__ = ["KvCache", "KvLayerShape", "KvLayout"]


@dataclass(frozen=True, slots=True)
class KvLayerShape:
    """The cached heads of one layer: K kv heads of D values each."""

    kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class KvLayout:
    """Where every cached key and value stands.

    format: "float32", "float16" or "bfloat16".  block_tokens: B, a multiple of 8.
    """

    layers: tuple[KvLayerShape, ...]
    block_tokens: int
    format: str

    @property
    def block_bytes(self) -> tuple[int, ...]:
        """Bytes of one block in each layer: its keys and its values."""
        size = storage_dtype(self.format).itemsize * self.block_tokens * 2
        return tuple(layer.kv_heads * layer.head_dim * size for layer in self.layers)

    @property
    def bytes_per_block(self) -> int:
        """Bytes of one block over all layers."""
        return sum(self.block_bytes)

    def layer_offsets(self, num_blocks: int) -> tuple[int, ...]:
        """Where each layer's blocks begin in an arena of num_blocks blocks, in bytes."""
        offsets, end = [], 0
        for size in self.block_bytes:
            offsets.append(end)
            end += size * num_blocks
        return tuple(offsets)


class KvCache:
    """A KV arena and its layout.

    arena: bytes, at least num_blocks * layout.bytes_per_block of them, owned by this object.
    """

    def __init__(self, layout: KvLayout, num_blocks: int) -> None:
        self.layout = layout
        self.num_blocks = num_blocks
        self.arena = aligned_zeros(num_blocks * layout.bytes_per_block)
        self.layer_offsets = layout.layer_offsets(num_blocks)

    def write(
        self, layer: int, block: int, slot: int, keys: np.ndarray, values: np.ndarray
    ) -> None:
        """Store one token's keys and values, each [K, D] float32, rounded to the cache's format."""
        key_block, value_block = self._block(layer, block)
        key_block[:, :, slot] = from_float32(keys, self.layout.format)
        value_block[:, slot, :] = from_float32(values, self.layout.format)

    def read(
        self, layer: int, block_table: npt.NDArray[np.int32], length: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """The first `length` keys and values of a request, each [length, K, D] float32."""
        size = self.layout.block_tokens
        keys, values = [], []
        for block in block_table[: -(-length // size)]:
            key_block, value_block = self._block(layer, int(block))
            keys.append(key_block.transpose(2, 0, 1))  # [B, K, D]
            values.append(value_block.transpose(1, 0, 2))  # [B, K, D]
        return self._decode(keys, length), self._decode(values, length)

    def _decode(self, blocks: list[np.ndarray], length: int) -> npt.NDArray[np.float32]:
        return to_float32(np.concatenate(blocks)[:length], self.layout.format)

    def _block(self, layer: int, block: int) -> tuple[np.ndarray, np.ndarray]:
        shape, tokens = self.layout.layers[layer], self.layout.block_tokens
        size = self.layout.block_bytes[layer]
        start = self.layer_offsets[layer] + block * size
        both = self.arena[start : start + size].view(storage_dtype(self.layout.format))
        keys, values = both.reshape(2, -1)
        return (
            keys.reshape(shape.kv_heads, shape.head_dim, tokens),
            values.reshape(shape.kv_heads, tokens, shape.head_dim),
        )
