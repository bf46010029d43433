"""The paged KV cache: its layout in one arena of bytes, and slow reads and writes of it.

Layer l, block b holds the keys of all kv heads as [K, D, B] and then the values as [K, B, D], so
that a query meets B keys with one broadcast per dimension.

In "int8" each key and each value, a vector of D numbers x, is stored as codes round(x / a * 127),
a = max |x|, and the float32 scale a / 127.  Codes of keys stand as [K, D / 2, B, 2] (D rounded up
to even; the last code of an odd D is 0), so that pairs meet in one multiply-add; codes of values as
[K, B, D]; then follow the scales of the keys [K, B] and of the values [K, B].  A vector that is not
finite is stored as codes 0 and scale NaN: whoever sees it becomes NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from quire.ops.aligned import aligned_zeros
from quire.ops.number_formats import FORMATS, from_float32, storage_dtype, to_float32

__all__ = [
    "KV_FORMATS",
    "SCALE_BYTES",
    "CacheLayerShape",
    "KvCache",
    "KvLayerShape",
    "KvLayout",
    "from_codes",
    "rounded_to_cache",
    "to_codes",
]

Float32 = npt.NDArray[np.float32]

KV_FORMATS = (*FORMATS, "int8")
"""The formats that keys and values can have in the cache."""

MOST_CODE = np.float32(127)
SCALE_BYTES = 4


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
        if format != "int8":
            size = storage_dtype(format).itemsize
            return 2 * self.kv_heads * self.head_dim * block_tokens * size
        codes = _even(self.head_dim) + self.head_dim
        return self.kv_heads * block_tokens * (codes + 2 * SCALE_BYTES)


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
        if self.layout.format != "int8":
            key_block, value_block = self._numbers(layer, block)
            key_block[:, :, slot] = from_float32(keys, self.layout.format)
            value_block[:, slot, :] = from_float32(values, self.layout.format)
            return
        key_codes, value_codes, key_scales, value_scales = self._codes(layer, block)
        codes, key_scales[:, slot] = to_codes(keys)
        padded = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
        key_codes[:, :, slot, :] = padded.reshape(len(padded), -1, 2)
        value_codes[:, slot, :], value_scales[:, slot] = to_codes(values)

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
        if self.layout.format != "int8":
            keys, values = self._numbers(layer, block)
            format = self.layout.format
            return (
                to_float32(keys.transpose(2, 0, 1), format),
                to_float32(values.transpose(1, 0, 2), format),
            )
        key_codes, value_codes, key_scales, value_scales = self._codes(layer, block)
        shape, tokens = self._shape(layer), self.layout.block_tokens
        pairs = key_codes.transpose(2, 0, 1, 3).reshape(tokens, shape.kv_heads, -1)
        return (
            from_codes(pairs[:, :, : shape.head_dim], key_scales.T),
            from_codes(value_codes.transpose(1, 0, 2), value_scales.T),
        )

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

    def _codes(
        self, layer: int, block: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Views of an int8 block: codes of keys and values, scales of keys and values."""
        shape, tokens = self._shape(layer), self.layout.block_tokens
        heads, dims, even = shape.kv_heads, shape.head_dim, _even(shape.head_dim)
        sizes = np.cumsum([heads * even * tokens, heads * dims * tokens])
        keys, values, scales = np.split(self.block(layer, block), sizes)
        key_scales, value_scales = scales.view(np.float32).reshape(2, heads, tokens)
        return (
            keys.view(np.int8).reshape(heads, even // 2, tokens, 2),
            values.view(np.int8).reshape(heads, tokens, dims),
            key_scales,
            value_scales,
        )


def to_codes(x: np.ndarray) -> tuple[npt.NDArray[np.int8], Float32]:
    """Codes of vectors [..., D] and their scales [...]; codes 0 and scale NaN if not finite."""
    with np.errstate(invalid="ignore", divide="ignore"):
        most = np.abs(x).max(axis=-1).astype(np.float32)
        most = np.where(np.isfinite(most), most, np.float32(np.nan))
        parts = np.rint(x / most[..., None] * MOST_CODE)
        codes = np.where(most[..., None] > 0, parts, 0).astype(np.int8)
    return codes, most / MOST_CODE


def from_codes(codes: np.ndarray, scales: np.ndarray) -> Float32:
    """The vectors [..., D] that codes and scales [...] stand for."""
    numbers: Float32 = codes.astype(np.float32) * scales[..., None].astype(np.float32)
    return numbers


def rounded_to_cache(x: np.ndarray, format: str) -> Float32:
    """Vectors [..., D] as they come back from the cache."""
    if format == "int8":
        return from_codes(*to_codes(x))
    return to_float32(from_float32(x, format), format)


def _even(head_dim: int) -> int:
    return head_dim + head_dim % 2
