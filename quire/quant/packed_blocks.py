"""Where single codes and the numbers of rows stand in the panels of a packed matrix."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = [
    "BLOCK",
    "HALF_BLOCK",
    "PANEL_ROWS",
    "column_of_rows",
    "padded",
    "read_blocks",
    "write_blocks",
]

PANEL_ROWS = 16
BLOCK = 32
"""Columns that stand together."""
HALF_BLOCK = 16

Bytes = npt.NDArray[np.uint8]


def padded(cols: int) -> int:
    """Columns in whole blocks."""
    return -(-cols // BLOCK) * BLOCK


def column_of_rows(per_row: np.ndarray, group: int, panels: int) -> Bytes:
    """One group's numbers [rows, groups] of every row, as bytes [panels, 16 * size].

    0 for rows of padding, and for the half of a block that is padding.
    """
    out = np.zeros(panels * PANEL_ROWS, per_row.dtype)
    if group < per_row.shape[1]:
        out[: len(per_row)] = per_row[:, group]
    return out.reshape(panels, PANEL_ROWS).view(np.uint8)


def write_blocks(codes: Bytes, bits: int) -> Bytes:
    """[panels, 16, blocks, 32] → [panels, bytes]: in each block, quads of columns of every row."""
    panels, rows, blocks, _ = codes.shape
    if bits == 4:
        codes = (codes[..., :HALF_BLOCK] | (codes[..., HALF_BLOCK:] << 4)).astype(np.uint8)
    quads = codes.reshape(panels, rows, blocks, -1, 4)
    return np.ascontiguousarray(quads.transpose(0, 2, 3, 1, 4)).reshape(panels, -1)


def read_blocks(body: Bytes, blocks: int, bits: int) -> Bytes:
    """The inverse of `write_blocks`: [panels, 16, blocks * 32]."""
    panels = len(body)
    quads = body.reshape(panels, blocks, -1, PANEL_ROWS, 4).transpose(0, 3, 1, 2, 4)
    codes = quads.reshape(panels, PANEL_ROWS, blocks, -1)
    if bits == 4:
        codes = np.concatenate([codes & 15, codes >> 4], axis=-1)
    unpacked: Bytes = codes.reshape(panels, PANEL_ROWS, -1)
    return unpacked
