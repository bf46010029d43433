"""Rounds a matrix to a scheme: ranges that lose least are searched, then every weight is rounded.

For each group of a row, several ranges are tried, and the one kept whose rounding error weighs
least.  With calibration the weight is that of `importance`, which makes this AWQ's clipping
(arXiv:2306.00978); without, every error weighs alike.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from quire.convert.grid import Grid, Ranges, code_values
from quire.convert.importance import Importance
from quire.convert.scheme import Scheme
from quire.errors import ConfigError
from quire.quant.matrix import QuantizedMatrix

__all__ = ["group_size_of", "quantized", "round_matrix", "search_ranges"]

Codes = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]

ROWS_AT_A_TIME = 1 << 19
"""Elements that a thread works on: what stays in its share of the cache."""


def round_matrix(
    name: str,
    weights: Float32,
    grid: Grid,
    importance: Importance | None = None,
    search: bool = True,
) -> QuantizedMatrix:
    """The nearest matrix to weights [rows, cols], with the best ranges.

    importance: of errors; None: all weigh alike.  search: ranges; False: each reaches to its
    group's largest magnitude.
    Raises ConfigError where groups do not divide the columns.
    """
    size = group_size_of(name, grid.scheme, weights.shape[1])
    ranges = search_ranges(weights, grid, size, importance, search)
    groups = weights.reshape(len(weights), -1, size)
    codes = np.empty(groups.shape, np.uint8)

    def encode(rows: slice) -> None:
        part = Ranges(ranges.scales[rows, :, None], ranges.zeros[rows, :, None])
        codes[rows] = grid.encode(groups[rows], part)

    _over_rows(encode, weights.shape)
    return quantized(name, grid, size, codes.reshape(weights.shape), ranges)


def search_ranges(
    weights: Float32,
    grid: Grid,
    size: int,
    importance: Importance | None = None,
    search: bool = True,
) -> Ranges:
    """The best ranges [rows, groups] of weights [rows, cols] in groups of `size`."""
    groups = weights.reshape(len(weights), -1, size)
    shrinks = grid.shrinks if search else (1.0,)
    scales = np.empty(groups.shape[:2], np.float32)
    zeros = np.empty(groups.shape[:2], np.float32)

    def fit(part: slice) -> None:
        best = _best(groups[part], grid, importance, shrinks)
        scales[part], zeros[part] = best.scales, best.zeros

    _over_rows(fit, weights.shape)
    return Ranges(scales, zeros)


def quantized(name: str, grid: Grid, size: int, codes: Codes, ranges: Ranges) -> QuantizedMatrix:
    """Codes and ranges as a matrix."""
    scheme = grid.scheme
    integer = scheme.numbers == "integer"
    zeros = ranges.zeros.astype(np.uint8) if integer and not scheme.symmetric else None
    table = None if integer else code_values(scheme.bits)
    return QuantizedMatrix(name, scheme.bits, size, codes, ranges.scales, zeros=zeros, table=table)


def group_size_of(name: str, scheme: Scheme, cols: int) -> int:
    """Columns that share a scale.  Raises ConfigError where groups do not divide the columns."""
    size = cols if scheme.group_size is None else scheme.group_size
    if cols % size:
        raise ConfigError(
            f"{name} has {cols} columns, which are no groups of {size}; "
            f"give a --group-size that divides them{_dividing(cols)}, or leave it unquantized "
            f"with --override {name.removesuffix('.weight')}=none"
        )
    return size


def _dividing(cols: int) -> str:
    sizes = [str(size) for size in (128, 64, 32, 16) if cols % size == 0]
    return f" ({' or '.join(sizes)})" if sizes else ""


def _best(
    groups: Float32, grid: Grid, importance: Importance | None, shrinks: tuple[float, ...]
) -> Ranges:
    best = grid.fit(groups, shrinks[0])
    if len(shrinks) == 1:
        return best
    least = None
    for shrink in shrinks:
        ranges = grid.fit(groups, shrink)
        wide = Ranges(ranges.scales[..., None], ranges.zeros[..., None])
        errors = grid.decode(grid.encode(groups, wide), wide) - groups
        if importance is None:
            loss = np.einsum("rgi,rgi->rg", errors, errors)
        else:
            loss = importance.of_errors(errors)
        if least is None:
            best, least = ranges, loss
            continue
        better = loss < least
        best, least = best.where(better, ranges), np.where(better, loss, least)
    return best


def _over_rows(work: Callable[[slice], None], shape: tuple[int, ...]) -> None:
    """Do `work` on slices of rows in threads; rows do not depend on each other."""
    step = max(1, ROWS_AT_A_TIME // shape[1])
    parts = [slice(start, start + step) for start in range(0, shape[0], step)]
    if len(parts) == 1:
        work(parts[0])
        return
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(work, parts))
