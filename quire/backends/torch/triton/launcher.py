"""Starts kernels: which tile they take on this device, and with which options they are compiled.

A kernel names in do_not_specialize what changes from step to step: each value that Triton makes a
specialisation for is compiled, in traffic, when it first comes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from quire.backends.torch.devices import Device
from quire.backends.torch.triton.tiles import Tile, Tiles, shipped_tile
from quire.errors import ConfigError

__all__ = ["Launcher", "build_options", "launcher_of"]


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


@cache
def launcher_of(device: Device) -> Launcher:
    """The launcher of a device, with the tiles that were measured on it.

    Raises ConfigError for a device on which none of the kernels runs.
    """
    if device.triton_architecture is None:
        raise ConfigError(f"{device.torch_device} runs none of the Triton kernels")
    from quire.backends.torch.triton.tuner import kept_tiles

    return Launcher(device.triton_architecture, kept_tiles(device.model))
