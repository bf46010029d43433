"""Takes out of a stored tensor, or of a quantized matrix, the part that one weight is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from quire.errors import CheckpointError
from quire.models.places import Place, Rows
from quire.ops.number_formats import FORMAT_OF, from_float32
from quire.quant.matrix import QuantizedMatrix
from quire.weights.tensor import RawTensor

__all__ = ["part_of_matrix", "part_of_tensor", "refuse_part"]

Scalar = TypeVar("Scalar", bound=np.generic)

TINY = np.float32(1e-12)
"""The least length that a row is divided by."""


def part_of_tensor(tensor: RawTensor, place: Place) -> RawTensor:
    """The part of a tensor of plain floats; a view of its memory if the part is contiguous."""
    data = tensor.data if place.expert is None else tensor.data[place.expert]
    if place.transposed:
        data = data.T
    if place.flat:
        data = data.reshape(len(data), -1)
    if place.rows is not None:
        data = _rows(data, place.rows)
    if not data.flags.c_contiguous:
        data = np.ascontiguousarray(data)
    part = replace(tensor, shape=data.shape, data=data)
    if not place.unit_rows and place.times == 1:
        return part
    wide = part.float32() * np.float32(place.times)
    if place.unit_rows:
        wide /= _lengths(wide)
    dtype = "F32" if part.dtype == "F64" else part.dtype
    return replace(part, dtype=dtype, data=from_float32(wide, FORMAT_OF[dtype]))


def part_of_matrix(matrix: QuantizedMatrix, place: Place) -> QuantizedMatrix:
    """The part of a quantized matrix, which `refuse_part` must have nothing against."""
    if place.rows is not None:
        rows = place.rows
        matrix = replace(
            matrix,
            codes=np.ascontiguousarray(_rows(matrix.codes, rows)),
            scales=np.ascontiguousarray(_rows(matrix.scales, rows)),
            zeros=None if matrix.zeros is None else _rows(matrix.zeros, rows).copy(),
            minimums=None if matrix.minimums is None else _rows(matrix.minimums, rows).copy(),
        )
    if place.unit_rows:
        lengths = _lengths(matrix.float32())
        minimums = None if matrix.minimums is None else matrix.minimums / lengths
        matrix = replace(matrix, scales=matrix.scales / lengths, minimums=minimums)
    return matrix if place.times == 1 else _times(matrix, np.float32(place.times))


def _times(matrix: QuantizedMatrix, factor: np.float32) -> QuantizedMatrix:
    minimums = None if matrix.minimums is None else matrix.minimums * factor
    return replace(matrix, scales=matrix.scales * factor, minimums=minimums)


def refuse_part(place: Place, what: str) -> None:
    """Raise CheckpointError for a part that cannot be taken out of a quantized matrix."""
    if place.expert is not None or place.transposed:
        stands = "one of many experts in" if place.expert is not None else "the transpose of"
        raise CheckpointError(
            f"{what}, and the weight is {stands} this tensor; of quantized tensors only rows can "
            "be taken: use a checkpoint whose experts are tensors of their own, or the original"
        )


def _rows(data: npt.NDArray[Scalar], rows: Rows) -> npt.NDArray[Scalar]:
    """Some of the rows; a view, if they are one run."""
    if not rows.every:
        return data[rows.start : rows.start + rows.count]
    groups = data.reshape(-1, rows.every, *data.shape[1:])
    runs: Any = groups[:, rows.start : rows.start + rows.count]
    return np.ascontiguousarray(runs).reshape(-1, *data.shape[1:])


def _lengths(wide: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The Euclidean length of each row, [rows, 1]."""
    squares = np.square(wide, dtype=np.float32).sum(axis=1, keepdims=True, dtype=np.float32)
    lengths: npt.NDArray[np.float32] = np.maximum(np.sqrt(squares), TINY)
    return lengths
