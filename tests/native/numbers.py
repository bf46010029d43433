"""Number formats in numpy: what weights and caches hold, and how far apart floats are."""

from __future__ import annotations

from typing import Any

import numpy as np

from quire.backends.native import abi as c
from quire.ops.kv_cache import rounded_to_cache

Array = np.ndarray[Any, Any]


def to_bfloat16(values: Array) -> Array:
    """Bits (uint16) of the nearest bfloat16, ties to even; not for NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def store(values: Array, dtype: int) -> Array:
    """float32 values in a storage format."""
    if dtype == c.BF16:
        return to_bfloat16(values)
    return values.astype(np.float32 if dtype == c.F32 else np.float16)


def read(stored: Array) -> Array:
    """Stored values as float32: uint16 is bfloat16."""
    if stored.dtype == np.uint16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)


def rounded(values: Array, dtype: int) -> Array:
    """float32 values [..., D] as they come back from a storage format."""
    formats = {c.KV_INT8: "int8", c.KV_FLOAT8: "fp8", c.KV_INT4: "int4"}
    if dtype in formats:
        return rounded_to_cache(values, formats[dtype])
    return read(store(values, dtype))


def same_bits(a: Array, b: Array) -> bool:
    """Whether two float32 arrays are equal bit by bit."""
    return a.shape == b.shape and bool((a.view(np.uint32) == b.view(np.uint32)).all())
