"""Lays quantized matrices out for the integer kernels, where these have a layout for them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quire.quant.matrix import QuantizedMatrix
from quire.quant.packed import BITS, BLOCK, PackedDtype, PackedMatrix, pack

__all__ = ["SCALE_ERROR", "pack_matrix"]

SCALE_ERROR = 2.0**-11
"""How far off float16 may put a scale, as a share of it: half a unit in its last place."""


def pack_matrix(matrix: QuantizedMatrix) -> PackedMatrix | None:
    """The matrix as the kernels read it; None where they have no layout for it.

    They multiply codes of up to 8 bits with zero points, columns in their order, a scale for a
    multiple of 32 columns or for a whole row.  Codes and zero points stay what they are; scales
    are rounded to float16, which must hold them within SCALE_ERROR.
    """
    if matrix.table is not None or matrix.minimums is not None or matrix.order is not None:
        return None
    group_size = _group_size(matrix)
    scales = _half(matrix.scales)
    if group_size is None or scales is None:
        return None
    dtype: PackedDtype = "INT4" if matrix.bits <= BITS["INT4"] else "INT8"
    codes = matrix.codes
    if matrix.zeros is None:  # signed codes stand above the middle of their own bits
        codes = codes + np.uint8((1 << BITS[dtype] - 1) - (1 << matrix.bits - 1))
    return pack(matrix.name, dtype, group_size, codes, scales, matrix.zeros)


def _group_size(matrix: QuantizedMatrix) -> int | None:
    """Columns that share a scale; a whole row is rounded up to blocks."""
    cols = matrix.shape[1]
    if matrix.group_size >= cols:
        return -(-cols // BLOCK) * BLOCK
    return None if matrix.group_size % BLOCK else matrix.group_size


def _half(scales: npt.NDArray[np.float32]) -> npt.NDArray[np.float16] | None:
    with np.errstate(over="ignore", invalid="ignore"):
        half = scales.astype(np.float16)
        off = np.abs(half.astype(np.float32) - scales)
        return half if (off <= np.abs(scales) * np.float32(SCALE_ERROR)).all() else None
