"""Between the group of each input, as files have it, and the order of a QuantizedMatrix."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quire.quant.formats.scheme import Tensors
from quire.quant.matrix import QuantizedMatrix

__all__ = ["groups_in_order", "order_of_groups"]

Indices = npt.NDArray[np.int32]


def order_of_groups(tensors: Tensors, part: str, size: int) -> Indices | None:
    """The inputs sorted by their groups, of an int32 tensor [in] of groups of `size` inputs.

    None where the tensor is missing or the inputs are sorted already.  Raises CheckpointError
    unless every group has as many inputs as it should.
    """
    cols = tensors.shape[1]
    if part not in tensors:
        return None
    group_of: Indices = tensors.take(part, ("I32",), (cols,))
    expected = np.arange(cols) // size
    if (group_of == expected).all():
        return None
    if not np.array_equal(np.sort(group_of), expected):
        raise tensors.error(f".{part} does not share {cols} inputs out in groups of {size}")
    return np.argsort(group_of, kind="stable").astype(np.int32)


def groups_in_order(matrix: QuantizedMatrix) -> tuple[npt.NDArray[np.uint8], Indices]:
    """The codes [rows, cols] in the order of the inputs, and the group of each input [cols]."""
    groups = np.arange(matrix.shape[1], dtype=np.int32) // matrix.group_size
    if matrix.order is None:
        return matrix.codes, groups
    codes, group_of = np.empty_like(matrix.codes), np.empty_like(groups)
    codes[:, matrix.order] = matrix.codes
    group_of[matrix.order] = groups
    return codes, group_of
