"""Packed matrices apart, on the device: what PackedMatrix.unpack does, with torch.

So a matrix crosses to the device as it stands in its file, and the host computes nothing.
"""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple

import torch

from quire.quant.packed import BITS, PackedMatrix, block_groups, header_bytes
from quire.quant.packed_blocks import BLOCK, PANEL_ROWS

__all__ = ["Unpacked", "unpack", "unpack_floats"]

WIDTH_OF_SCALE = 2


class Unpacked(NamedTuple):
    """Codes [rows, cols], uint8; [rows, groups]: scales, and zeros or minimums where there are any.

    zeros: uint8, also where the layout says them without storing them.  scales, minimums: float16,
    of 8-bit floats float32.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None = None
    minimums: torch.Tensor | None = None


def unpack(packed: PackedMatrix, data: torch.Tensor) -> Unpacked:
    """The parts of a matrix of integers.  data: its bytes, wherever they are."""
    rows, cols = packed.shape
    bits = BITS[packed.dtype]
    panels = data.view(-(-rows // PANEL_ROWS), -1)
    headers, body = _split(packed, panels, bits)
    quads = body.view(len(panels), -1, BLOCK * bits // 32, PANEL_ROWS, 4).permute(0, 3, 1, 2, 4)
    codes = quads.reshape(len(panels), PANEL_ROWS, quads.shape[2], -1)
    if bits == 4:
        codes = torch.cat([codes & 15, codes >> 4], dim=-1)
    codes = codes.reshape(len(panels) * PANEL_ROWS, -1)[:rows, :cols]
    groups = -(-cols // packed.group_size)

    def of_rows(start: int, dtype: torch.dtype) -> torch.Tensor:
        size = PANEL_ROWS * dtype.itemsize
        numbers = headers[:, :, start : start + size].contiguous().view(dtype)  # [P, G, 16]
        return numbers.transpose(1, 2).reshape(-1, numbers.shape[1])[:rows, :groups].contiguous()

    scales, behind = of_rows(0, torch.float16), PANEL_ROWS * WIDTH_OF_SCALE
    if packed.has_minimums:
        return Unpacked(codes, scales, minimums=of_rows(behind, torch.float16))
    if packed.dtype == "TABLE4":
        return Unpacked(codes, scales)
    if packed.has_zero_points:
        return Unpacked(codes, scales, of_rows(behind, torch.uint8))
    middle = torch.full(scales.shape, 1 << (bits - 1), dtype=torch.uint8, device=data.device)
    return Unpacked(codes, scales, middle)


def unpack_floats(packed: PackedMatrix, data: torch.Tensor) -> Unpacked:
    """The parts of a matrix of 8-bit floats, as quire.quant.packed_floats has them."""
    rows, cols = packed.shape
    groups = -(-cols // packed.group_size)
    scales = data[-4 * rows * groups :].view(torch.float32).view(rows, groups)
    return Unpacked(data[: rows * cols].view(rows, cols), scales.clone())


def _split(
    packed: PackedMatrix, panels: torch.Tensor, bits: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The headers [panels, groups, bytes] and the codes [panels, bytes] of all groups."""
    header = header_bytes(packed.has_zero_points, packed.has_minimums)
    headers, bodies, at = [], [], 0
    for (blocks, count), alike in groupby(block_groups(packed.shape[1], packed.group_size)):
        number = len(list(alike))
        size = count * header + blocks * BLOCK * PANEL_ROWS * bits // 8
        parts = panels[:, at : at + number * size].unflatten(1, (number, size))
        headers.append(parts[:, :, : count * header].reshape(len(panels), -1, header))
        bodies.append(parts[:, :, count * header :].flatten(1))
        at += number * size
    return torch.cat(headers, dim=1), torch.cat(bodies, dim=1)
