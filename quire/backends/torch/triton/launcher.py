"""Starts kernels: which tile they take on this device, and with which options they are compiled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from quire.backends.torch.triton.tiles import Tile, Tiles, shipped_tile

__all__ = ["Launcher", "architecture_of", "build_options"]


@dataclass(frozen=True)
class Launcher:
    """Starts kernels on one device.

    architecture: one of tiles.ARCHITECTURES.  tuned: tiles that were measured here; they go before
    those that are shipped.
    """

    architecture: str
    tuned: Tiles = field(default_factory=dict)

    def tile(self, kernel: str, shapes: str) -> Tile:
        """The tile of a kernel for a class of shapes."""
        tile = self.tuned.get((kernel, shapes))
        return shipped_tile(self.architecture, kernel, shapes) if tile is None else tile

    def run(self, kernel: Any, grid: tuple[int, ...], tile: Tile, /, **arguments: Any) -> None:
        """Start `grid` programs.

        Products and sums are never contracted unless a kernel says so: what one specialisation
        of it rounds, all do.
        """
        if 0 in grid:
            return
        kernel[grid](
            **arguments,
            num_warps=tile.warps,
            num_stages=tile.stages,
            **build_options(self.architecture),
        )


def build_options(architecture: str) -> dict[str, Any]:
    """How kernels are compiled beside their tile; on AMD with one kind of matrix instruction."""
    nearest = {"matrix_instr_nonkdim": 16} if architecture.startswith("gfx") else {}
    return {"enable_fp_fusion": False, **nearest}


def architecture_of(device: torch.device) -> str:
    """The architecture whose tiles fit a device."""
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip is not None:
        return "gfx942"
    return "sm_90" if properties.major >= 9 else "sm_80"
