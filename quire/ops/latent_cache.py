"""The cache of latent attention: one row [C + P] per token, which is key and value of all heads.

A block holds its rows one after the other, [B, C + P]: the latent, whose C numbers are the values
as well, and the P numbers of the key that carry its rotation.  In "int8" both parts are stored as
codes with a scale each, as kv_cache.py says; the scales of the latents [B] and of the rotated parts
[B] stand behind the rows.

Source: arXiv:2405.04434, section 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quire.ops.kv_cache import FACT_BYTES, KvCache
from quire.ops.kv_codes import from_codes, to_codes
from quire.ops.number_formats import FORMATS, from_float32, storage_dtype, to_float32

__all__ = ["LATENT_FORMATS", "LatentLayerShape", "read_latents", "write_latent"]

Float32 = npt.NDArray[np.float32]

LATENT_FORMATS = (*FORMATS, "int8")
"""The formats that latents can have in the cache."""


@dataclass(frozen=True, slots=True)
class LatentLayerShape:
    """The cached row of one layer: a latent of `rank` values, and `rope_dims` rotated ones."""

    rank: int
    rope_dims: int

    @property
    def numbers(self) -> int:
        """Numbers that a token takes."""
        return self.rank + self.rope_dims

    def block_bytes(self, block_tokens: int, format: str) -> int:
        """Bytes of one block: rows, and their scales if the format has any."""
        if format == "int8":
            return block_tokens * (self.numbers + 2 * FACT_BYTES)
        return block_tokens * self.numbers * storage_dtype(format).itemsize


def write_latent(cache: KvCache, layer: int, block: int, offset: int, row: Float32) -> None:
    """Store one token's row [C + P], rounded to the cache's format."""
    shape, format = _shape(cache, layer), cache.layout.format
    if format != "int8":
        _numbers(cache, layer, block)[offset] = from_float32(row, format)
        return
    codes, scales = _codes(cache, layer, block)
    for part, numbers in enumerate((row[: shape.rank], row[shape.rank :])):
        start = part * shape.rank
        found, facts = to_codes(numbers, "int8")
        codes[offset, start : start + len(numbers)], scales[part, offset] = found, facts[0]


def read_latents(
    cache: KvCache, layer: int, block_table: npt.NDArray[np.int32], length: int
) -> Float32:
    """The rows [length, C + P] of a request's first positions."""
    count = -(-length // cache.layout.block_tokens)
    blocks = [_read_block(cache, layer, int(block)) for block in block_table[:count]]
    return np.concatenate(blocks)[:length]


def _read_block(cache: KvCache, layer: int, block: int) -> Float32:
    format, rank = cache.layout.format, _shape(cache, layer).rank
    if format != "int8":
        return to_float32(_numbers(cache, layer, block), format)
    codes, scales = _codes(cache, layer, block)
    parts = (codes[:, :rank], scales[:1]), (codes[:, rank:], scales[1:])
    return np.concatenate([from_codes(each, facts, "int8") for each, facts in parts], axis=1)


def _shape(cache: KvCache, layer: int) -> LatentLayerShape:
    shape = cache.layout.layers[layer]
    assert isinstance(shape, LatentLayerShape)
    return shape


def _numbers(cache: KvCache, layer: int, block: int) -> np.ndarray:
    """A view of a block's rows [B, C + P]."""
    numbers = cache.block(layer, block).view(storage_dtype(cache.layout.format))
    return numbers.reshape(cache.layout.block_tokens, -1)


def _codes(cache: KvCache, layer: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Views of an int8 block: codes [B, C + P], and scales [2, B] of both parts."""
    tokens, width = cache.layout.block_tokens, _shape(cache, layer).numbers
    codes, scales = np.split(cache.block(layer, block), [tokens * width])
    return codes.reshape(tokens, width), scales.view(np.float32).reshape(2, tokens)
