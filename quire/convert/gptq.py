"""GPTQ: rounds column after column, and lets the columns still to come make up for each error.

With H the second moment of the inputs and H = M M^T, M upper triangular, the loss
tr((W - Q) H (W - Q)^T) is the squared length of (W - Q) M, whose column k is
M[k, k] (w_k - q_k + sum over j < k of (w_j - q_j) M[j, k] / M[k, k]): q_k is the nearest to what
makes that zero.  This is GPTQ without its inverse of H (arXiv:2307.13304, theorem 6).  Columns with
the largest diagonal of H come first (act-order); ranges are searched before any column is
rounded, so that groups keep their place and no order has to be stored.

Source: arXiv:2210.17323.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quire.convert.grid import Grid, Ranges
from quire.convert.importance import Importance
from quire.convert.rounding import group_size_of, over_rows, quantized, search_ranges
from quire.quant.matrix import QuantizedMatrix

__all__ = ["Spread", "gptq", "spread_of"]

Float32 = npt.NDArray[np.float32]

BLOCK = 128
"""Columns rounded between two products with the errors of all columns before them."""
FACTOR_BLOCK = 256
ROWS_AT_A_TIME = 2048
DAMPING = 0.01
"""What is added to the diagonal of H, as a share of its mean."""


class Spread:
    """How errors spread, for all matrices that read one input.

    order: columns in act-order.  factor: M[j, k] / M[k, k] above the diagonal, in that order.
    """

    def __init__(self, order: npt.NDArray[np.int64], factor: Float32) -> None:
        self.order = order
        self.factor = factor


def spread_of(moment: Float32, damping: float = DAMPING) -> Spread:
    """The spread for inputs with this second moment [cols, cols].

    Damping is raised tenfold until the damped moment can be factored in float32.
    """
    diagonal = np.diagonal(moment)
    mean = float(diagonal.mean(dtype=np.float64)) or 1.0
    order = np.argsort(-diagonal, kind="stable")
    while True:
        factor = moment[np.ix_(order, order)]
        factor[np.diag_indices_from(factor)] += np.float32(damping * mean)
        try:
            _factor_upper(factor)
            break
        except np.linalg.LinAlgError:
            damping *= 10
    factor /= np.diagonal(factor).copy()
    return Spread(order, factor)


def gptq(
    name: str, weights: Float32, grid: Grid, importance: Importance, spread: Spread
) -> QuantizedMatrix:
    """Weights [rows, cols] rounded by GPTQ; importance: for ranges."""
    size = group_size_of(name, grid.scheme, weights.shape[1])
    ranges = search_ranges(weights, grid, size, importance)
    codes = np.empty(weights.shape, np.uint8)

    def round_rows(rows: slice) -> None:
        part = Ranges(ranges.scales[rows].T.copy(), ranges.zeros[rows].T.copy())
        codes[rows] = _round_columns(weights[rows], grid, part, size, spread).T

    over_rows(round_rows, len(weights), ROWS_AT_A_TIME)
    return quantized(name, grid, size, codes, ranges)


def _round_columns(
    weights: Float32, grid: Grid, ranges: Ranges, size: int, spread: Spread
) -> npt.NDArray[np.uint8]:
    """The codes [cols, rows] of weights [rows, cols], with ranges [groups, rows]."""
    rows, cols = weights.shape
    codes = np.empty((cols, rows), np.uint8)
    errors = np.empty((cols, rows), np.float32)
    for start in range(0, cols, BLOCK):
        stop = min(start + BLOCK, cols)
        columns = spread.order[start:stop]
        exact = weights.T[columns]
        # What the errors of all earlier blocks ask of this one.
        wanted = spread.factor[:start, start:stop].T @ errors[:start]
        wanted += exact
        own = np.ascontiguousarray(spread.factor[start:stop, start:stop].T)
        lost = errors[start:stop]
        for at, column in enumerate(columns):
            near = Ranges(ranges.scales[column // size], ranges.zeros[column // size])
            code = grid.encode(wanted[at] + own[at, :at] @ lost[:at], near)
            np.subtract(exact[at], grid.decode(code, near), out=lost[at])
            codes[column] = code
    return codes


def _factor_upper(matrix: Float32) -> None:
    """Put M with M M^T = matrix over its upper triangle, from the last columns to the first.

    Nearly all of it is products of large matrices, which LAPACK's own factoring is not.
    Raises LinAlgError where the matrix is not positive definite.
    """
    stop = len(matrix)
    while stop:
        start = max(0, stop - FACTOR_BLOCK)
        matrix[:stop, start:stop] -= matrix[:stop, stop:] @ matrix[start:stop, stop:].T
        square = matrix[start:stop, start:stop].astype(np.float64)
        lower = np.linalg.cholesky(square[::-1, ::-1])
        upper = lower[::-1, ::-1]
        matrix[start:stop, start:stop] = upper
        matrix[:start, start:stop] = matrix[:start, start:stop] @ np.linalg.inv(upper).T.astype(
            "f4"
        )
        stop = start
