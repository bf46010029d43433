"""Rounds a float matrix to packed integers with the native library: the speed of its memory."""

from __future__ import annotations

import ctypes

import numpy as np

from quire.backends.executable import StoredWeight
from quire.backends.native import abi as c
from quire.backends.native import library
from quire.backends.native.record_writer import DTYPE_CODES
from quire.quant.packed import PackedDtype, PackedMatrix, packed_bytes

__all__ = ["pack_to_nearest"]


def pack_to_nearest(
    pool: library.ThreadPool, name: str, weight: StoredWeight, dtype: PackedDtype, group_size: int
) -> PackedMatrix:
    """What quire.quant.round_to_nearest gives for a weight [rows, cols] in F32, F16 or BF16."""
    rows, cols = weight.shape
    source = np.ascontiguousarray(weight.data)
    data = np.empty(packed_bytes((rows, cols), dtype, group_size, False), np.uint8)
    from_ = c.Matrix(source.ctypes.data, rows, cols, DTYPE_CODES[weight.dtype])
    to = c.Matrix(data.ctypes.data, rows, cols, DTYPE_CODES[dtype], group_size)
    functions = library.load()
    assert functions.quire_matrix_bytes(ctypes.byref(to)) == data.size
    library.check(functions.quire_pack(pool.handle, ctypes.byref(from_), ctypes.byref(to)))
    return PackedMatrix(name, dtype, (rows, cols), group_size, False, data)
