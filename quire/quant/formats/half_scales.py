"""Scales as writers store them: float16, which must hold them exactly."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quire.quant.matrix import QuantizedMatrix

__all__ = ["half_scales", "zeros_of"]


def half_scales(matrix: QuantizedMatrix) -> npt.NDArray[np.float16]:
    """The scales [rows, groups] in float16; ValueError where that would round them."""
    with np.errstate(over="ignore"):
        half = matrix.scales.astype(np.float16)
    if (half.astype(np.float32) != matrix.scales).any():
        raise ValueError(
            f"{matrix.name!r} has scales that float16 does not hold exactly; round the scales to "
            "float16 before choosing codes"
        )
    return half


def zeros_of(matrix: QuantizedMatrix) -> npt.NDArray[np.uint8]:
    """The zero points [rows, groups]; ValueError for a matrix with minimums or a table."""
    if matrix.minimums is not None or matrix.table is not None:
        raise ValueError(f"{matrix.name!r} has minimums or a table, which this format cannot hold")
    if matrix.zeros is not None:
        return matrix.zeros
    return np.full(matrix.scales.shape, 1 << (matrix.bits - 1), np.uint8)
