"""Integer matrices in the layout that the native kernels read; csrc/cpu/packed.h draws it.

A weight is (code - zero point) * scale, with a float16 scale and, if the matrix has them, a uint8
zero point for each row and group of columns.  Without them the zero point is 8 or 128.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["BITS", "BLOCK", "PANEL_ROWS", "PackedDtype", "PackedMatrix", "pack", "packed_bytes"]

PANEL_ROWS = 16
BLOCK = 32  # columns that stand together
BITS = {"INT4": 4, "INT8": 8}

PackedDtype = Literal["INT4", "INT8"]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class PackedMatrix:
    """One matrix [rows, cols] of packed integers.

    group_size: columns that share a scale, a multiple of 32.  data: uint8, `packed_bytes` of them.
    """

    name: str
    dtype: PackedDtype
    shape: tuple[int, ...]
    group_size: int
    has_zero_points: bool
    data: Bytes

    def float32(self) -> npt.NDArray[np.float32]:
        """The weights, as float32: [rows, cols]."""
        codes, scales, zeros = self.unpack()
        groups = np.arange(codes.shape[1]) // self.group_size
        wide = scales.astype(np.float32)[:, groups]
        return (codes.astype(np.float32) - zeros.astype(np.float32)[:, groups]) * wide

    def unpack(self) -> tuple[Bytes, npt.NDArray[np.float16], Bytes]:
        """Codes [rows, cols], scales and zero points [rows, groups]."""
        rows, cols = self.shape
        panels = self.data.reshape(-(-rows // PANEL_ROWS), -1)
        codes, scales, zeros, at = [], [], [], 0
        for blocks in _blocks_of_groups(cols, self.group_size):
            header = PANEL_ROWS * (3 if self.has_zero_points else 2)
            size = blocks * BLOCK * PANEL_ROWS * BITS[self.dtype] // 8
            head, body = panels[:, at : at + header], panels[:, at + header : at + header + size]
            at += header + size
            scales.append(head[:, : 2 * PANEL_ROWS].copy().view("<f2"))
            zeros.append(head[:, 2 * PANEL_ROWS :])
            codes.append(_unpack_blocks(body, blocks, BITS[self.dtype]))
        all_scales = np.stack(scales, 2).reshape(-1, len(scales))[:rows]
        if self.has_zero_points:
            all_zeros = np.stack(zeros, 2).reshape(-1, len(zeros))[:rows]
        else:
            all_zeros = np.full(all_scales.shape, _middle(self.dtype), np.uint8)
        return (
            np.concatenate(codes, 2).reshape(-1, _padded(cols))[:rows, :cols],
            all_scales,
            all_zeros,
        )


def packed_bytes(shape: tuple[int, ...], dtype: PackedDtype, group_size: int, zeros: bool) -> int:
    """The size of a packed matrix."""
    rows, cols = shape
    header = PANEL_ROWS * (3 if zeros else 2)
    per_panel = -(-cols // group_size) * header + _padded(cols) * PANEL_ROWS * BITS[dtype] // 8
    return -(-rows // PANEL_ROWS) * per_panel


def pack(
    name: str,
    dtype: PackedDtype,
    group_size: int,
    codes: Bytes,
    scales: npt.NDArray[np.float16],
    zeros: Bytes | None = None,
) -> PackedMatrix:
    """Pack codes [rows, cols], scales [rows, groups] and, unless symmetric, zero points.

    Padding has the code of zero and no scale.
    """
    rows, cols = codes.shape
    panels = -(-rows // PANEL_ROWS)
    middle = _middle(dtype)
    wide = np.full((panels * PANEL_ROWS, _padded(cols)), middle, np.uint8)
    wide[:rows, :cols] = codes
    pieces: list[Bytes] = []
    start = 0
    for group, blocks in enumerate(_blocks_of_groups(cols, group_size)):
        pieces.append(_column(scales.astype("<f2"), group, panels).view(np.uint8))
        if zeros is not None:
            pieces.append(_column(zeros, group, panels).view(np.uint8))
        body = wide[:, start : start + blocks * BLOCK]
        pieces.append(_pack_blocks(body.reshape(panels, PANEL_ROWS, blocks, BLOCK), BITS[dtype]))
        start += blocks * BLOCK
    data = np.concatenate(pieces, axis=1).reshape(-1)
    return PackedMatrix(name, dtype, (rows, cols), group_size, zeros is not None, data)


def _middle(dtype: PackedDtype) -> int:
    return 1 << (BITS[dtype] - 1)


def _padded(cols: int) -> int:
    return -(-cols // BLOCK) * BLOCK


def _blocks_of_groups(cols: int, group_size: int) -> list[int]:
    """How many blocks each group has; the last may be short."""
    blocks, size = _padded(cols) // BLOCK, group_size // BLOCK
    return [min(size, blocks - first) for first in range(0, blocks, size)]


def _column(per_row: npt.NDArray[np.generic], group: int, panels: int) -> npt.NDArray[np.generic]:
    """One group's numbers of every row, [panels, 16]."""
    out = np.zeros(panels * PANEL_ROWS, per_row.dtype)
    out[: len(per_row)] = per_row[:, group]
    return out.reshape(panels, PANEL_ROWS)


def _pack_blocks(codes: Bytes, bits: int) -> Bytes:
    """[panels, 16, blocks, 32] → [panels, bytes]: in each block, quads of columns of every row."""
    panels, rows, blocks, _ = codes.shape
    if bits == 4:
        codes = (codes[..., :16] | (codes[..., 16:] << 4)).astype(np.uint8)
    quads = codes.reshape(panels, rows, blocks, -1, 4)
    return np.ascontiguousarray(quads.transpose(0, 2, 3, 1, 4)).reshape(panels, -1)


def _unpack_blocks(body: Bytes, blocks: int, bits: int) -> Bytes:
    """The inverse of `_pack_blocks`: [panels, 16, blocks * 32]."""
    panels = len(body)
    quads = body.reshape(panels, blocks, -1, PANEL_ROWS, 4).transpose(0, 3, 1, 2, 4)
    codes = quads.reshape(panels, PANEL_ROWS, blocks, -1)
    if bits == 4:
        codes = np.concatenate([codes & 15, codes >> 4], axis=-1)
    unpacked: Bytes = codes.reshape(panels, PANEL_ROWS, -1)
    return unpacked
