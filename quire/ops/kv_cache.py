"""The paged KV cache: its layout in one arena of bytes, and slow reads and writes of it.

Layer l, block b holds the keys of all kv heads as [K, D, B] and then the values as [K, B, D], so
that a query meets B keys with one broadcast per dimension.

Formats of codes (quire/ops/kv_codes.py) have one byte for a code, or for two of int4, the first in
the low half; D is rounded up to even where two belong together.  Keys stand as
    int8   [K, D / 2, B, 2]       pairs meet in one multiply-add
    fp8    [K, D, B]
    int4   [K, D / 2, B]
and values as [K, B, D], in int4 [K, B, D / 2]; then follow the scales of the keys [K, B] and of the
values [K, B], and in int4 the minimums in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from quire.ops.aligned import aligned_zeros
from quire.ops.kv_codes import NUM_FACTS, from_codes, to_codes
from quire.ops.number_formats import FORMATS, from_float32, storage_dtype, to_float32

__all__ = [
    "FACT_BYTES",
    "KV_FORMATS",
    "CacheLayerShape",
    "KvCache",
    "KvLayerShape",
    "KvLayout",
    "rounded_to_cache",
]

Float32 = npt.NDArray[np.float32]

KV_FORMATS = (*FORMATS, *NUM_FACTS)
"""The formats that keys and values can have in the cache."""

FACT_BYTES = 4


class CacheLayerShape(Protocol):
    """What one layer caches of a token."""

    @property
    def numbers(self) -> int:
        """Numbers that a token takes."""
        ...

    def block_bytes(self, block_tokens: int, format: str) -> int:
        """Bytes of one block."""
        ...


@dataclass(frozen=True, slots=True)
class KvLayerShape:
    """The cached heads of one layer: K kv heads of D values each."""

    kv_heads: int
    head_dim: int

    @property
    def numbers(self) -> int:
        """Numbers that a token takes: its keys and its values."""
        return 2 * self.kv_heads * self.head_dim

    def block_bytes(self, block_tokens: int, format: str) -> int:
        """Bytes of one block: keys, values, and their scales if the format has any."""
        if format in FORMATS:
            size = storage_dtype(format).itemsize
            return 2 * self.kv_heads * self.head_dim * block_tokens * size
        codes = _key_bytes(self.head_dim, format) + _value_bytes(self.head_dim, format)
        return self.kv_heads * block_tokens * (codes + 2 * FACT_BYTES * NUM_FACTS[format])


@dataclass(frozen=True, slots=True)
class KvLayout:
    """Where every cached key and value stands.

    format: one of KV_FORMATS.  block_tokens: B; the native backend takes 16, 32 and 48.
    """

    layers: tuple[CacheLayerShape, ...]
    block_tokens: int
    format: str

    @property
    def block_bytes(self) -> tuple[int, ...]:
        """Bytes of one block in each layer."""
        return tuple(layer.block_bytes(self.block_tokens, self.format) for layer in self.layers)

    def bytes_of(self, layer: int, elements: int) -> int:
        """Bytes of so many cached numbers of a layer, with their share of scales."""
        in_block = self.layers[layer].numbers * self.block_tokens
        return elements * self.block_bytes[layer] // in_block

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

    arena: bytes, at least num_blocks * layout.bytes_per_block of them, owned by this object; none
    where a device has them instead (on_host False).
    """

    def __init__(self, layout: KvLayout, num_blocks: int, on_host: bool = True) -> None:
        self.layout = layout
        self.num_blocks = num_blocks
        self.is_on_host = on_host
        self.arena = aligned_zeros(num_blocks * layout.bytes_per_block if on_host else 0)
        self.layer_offsets = layout.layer_offsets(num_blocks)

    def write(
        self, layer: int, block: int, offset: int, keys: np.ndarray, values: np.ndarray
    ) -> None:
        """Store one token's keys and values, each [K, D] float32, rounded to the cache's format."""
        format = self.layout.format
        if format in FORMATS:
            key_block, value_block = self._numbers(layer, block)
            key_block[:, :, offset] = from_float32(keys, format)
            value_block[:, offset, :] = from_float32(values, format)
            return
        key_block, value_block, facts = self._codes(layer, block)
        codes, facts[:, 0, :, offset] = to_codes(keys, format)
        if format == "int8":
            codes = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
        stored = _stored(codes, format)
        key_block[:, :, offset, :] = stored.reshape(len(stored), -1, _key_lanes(format))
        codes, facts[:, 1, :, offset] = to_codes(values, format)
        value_block[:, offset, :] = _stored(codes, format)

    def read(
        self, layer: int, block_table: npt.NDArray[np.int32], length: int, start: int = 0
    ) -> tuple[Float32, Float32]:
        """Keys and values at positions start .. length - 1 of a request, each [., K, D] float32.

        Blocks that end before `start` are not read; their entries in the table may be anything.
        """
        size = self.layout.block_tokens
        first = start // size
        both = [self._read_block(layer, int(b)) for b in block_table[first : -(-length // size)]]
        wanted = slice(start - first * size, length - first * size)
        keys, values = (np.concatenate(parts)[wanted] for parts in zip(*both, strict=True))
        return keys, values

    def _read_block(self, layer: int, block: int) -> tuple[Float32, Float32]:
        """Keys and values of one block, each [B, K, D]."""
        format = self.layout.format
        if format in FORMATS:
            keys, values = self._numbers(layer, block)
            return (
                to_float32(keys.transpose(2, 0, 1), format),
                to_float32(values.transpose(1, 0, 2), format),
            )
        key_block, value_block, facts = self._codes(layer, block)
        dims, heads = self._shape(layer).head_dim, self._shape(layer).kv_heads
        stored_keys = key_block.transpose(2, 0, 1, 3).reshape(self.layout.block_tokens, heads, -1)
        stored = (stored_keys, value_block.transpose(1, 0, 2))
        keys, values = (
            from_codes(_unpacked(codes, dims, format), facts[:, i].swapaxes(1, 2), format)
            for i, codes in enumerate(stored)
        )
        return keys, values

    def block(self, layer: int, block: int) -> npt.NDArray[np.uint8]:
        """A view of the bytes of one block."""
        size = self.layout.block_bytes[layer]
        start = self.layer_offsets[layer] + block * size
        return self.arena[start : start + size]

    def _shape(self, layer: int) -> KvLayerShape:
        shape = self.layout.layers[layer]
        assert isinstance(shape, KvLayerShape)
        return shape

    def _numbers(self, layer: int, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Views of a block's keys [K, D, B] and values [K, B, D]."""
        shape, tokens = self._shape(layer), self.layout.block_tokens
        both = self.block(layer, block).view(storage_dtype(self.layout.format))
        keys, values = both.reshape(2, -1)
        return (
            keys.reshape(shape.kv_heads, shape.head_dim, tokens),
            values.reshape(shape.kv_heads, tokens, shape.head_dim),
        )

    def _codes(self, layer: int, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Views of a block of codes: keys [K, steps, B, lanes], values [K, B, bytes], facts.

        facts: [scale and minimum, keys and values, K, B].
        """
        shape, tokens, format = (
            self._shape(layer),
            self.layout.block_tokens,
            self.layout.format,
        )
        heads, lanes = shape.kv_heads, _key_lanes(format)
        sizes = [size(shape.head_dim, format) for size in (_key_bytes, _value_bytes)]
        keys, values, facts = np.split(
            self.block(layer, block), np.cumsum([heads * tokens * size for size in sizes])
        )
        return (
            keys.reshape(heads, -1, tokens, lanes),
            values.reshape(heads, tokens, -1),
            facts.view(np.float32).reshape(NUM_FACTS[format], 2, heads, tokens),
        )


def rounded_to_cache(x: np.ndarray, format: str) -> Float32:
    """Vectors [..., D] as they come back from the cache."""
    if format in FORMATS:
        return to_float32(from_float32(x, format), format)
    return from_codes(*to_codes(x, format), format)


def _key_lanes(format: str) -> int:
    """Bytes of a position that stand side by side in the keys."""
    return 2 if format == "int8" else 1


def _key_bytes(head_dim: int, format: str) -> int:
    return head_dim + head_dim % 2 if format == "int8" else _value_bytes(head_dim, format)


def _value_bytes(head_dim: int, format: str) -> int:
    return -(-head_dim // 2) if format == "int4" else head_dim


def _stored(codes: npt.NDArray[np.uint8], format: str) -> npt.NDArray[np.uint8]:
    """Codes [K, D] as bytes."""
    if format != "int4":
        return codes
    pairs = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2))).reshape(len(codes), -1, 2)
    both: npt.NDArray[np.uint8] = pairs[..., 0] | pairs[..., 1] << np.uint8(4)
    return both


def _unpacked(stored: npt.NDArray[np.uint8], dims: int, format: str) -> npt.NDArray[np.uint8]:
    """Bytes [..., bytes] as codes [..., D]."""
    if format == "int4":
        pairs = np.stack([stored & np.uint8(15), stored >> np.uint8(4)], axis=-1)
        stored = pairs.reshape(*stored.shape[:-1], -1)
    return np.ascontiguousarray(stored[..., :dims])
