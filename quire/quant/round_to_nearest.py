"""Rounds float matrices to integers without looking at any data: the yardstick of calibration.

4 bits: a group's scale is its number of largest magnitude / -8, so that this one is exact and all
sixteen codes are used.  8 bits: the largest magnitude / 127.  Scales are rounded to float16 first,
codes are then the nearest.  The native library's quire_pack does the same, faster.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quire.quant.packed import BITS, PackedDtype, PackedMatrix, pack

__all__ = ["round_to_nearest"]


def round_to_nearest(
    name: str, weights: npt.NDArray[np.float32], dtype: PackedDtype, group_size: int
) -> PackedMatrix:
    """The packed matrix nearest to weights [rows, cols].

    A group with a number that is not finite gets the scale NaN.
    """
    rows, cols = weights.shape
    groups = -(-cols // group_size)
    padded = np.zeros((rows, groups * group_size), np.float32)
    padded[:, :cols] = weights
    x = padded.reshape(rows, groups, group_size)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        scales = _scales(x, dtype)
        wide = scales.astype(np.float32)[..., None]
        inverse = np.where((wide != 0) & np.isfinite(wide), np.float32(1) / wide, np.float32(0))
        middle = 1 << (BITS[dtype] - 1)
        codes = np.nan_to_num(np.rint(x * inverse) + np.float32(middle), nan=0.0)
    codes = codes.clip(0, 2 * middle - 1).astype(np.uint8).reshape(rows, -1)[:, :cols]
    return pack(name, dtype, group_size, codes, scales)


def _scales(x: npt.NDArray[np.float32], dtype: PackedDtype) -> npt.NDArray[np.float16]:
    """[rows, groups] of x [rows, groups, size]."""
    at = np.abs(x).argmax(axis=-1, keepdims=True)
    extreme = np.take_along_axis(x, at, axis=-1)[..., 0]
    wrong = (x * np.float32(0)).sum(axis=-1, dtype=np.float32)
    exact = extreme / np.float32(-8) if BITS[dtype] == 4 else np.abs(extreme) / np.float32(127)
    scales: npt.NDArray[np.float16] = (exact + wrong).astype(np.float16)
    return scales
