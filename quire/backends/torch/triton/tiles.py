"""How each kernel is cut on each architecture: the tiles that are shipped.

A tile hangs on the shapes of the model and on the device, never on the batch: then the bits of a
row cannot hang on its neighbours.  All tiles of a matrix product use one kind of instruction on
one architecture, for another kind would add in another order (tests/triton/test_ahead.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from quire.errors import ConfigError

__all__ = [
    "ARCHITECTURES",
    "SHARED_BYTES",
    "TILES",
    "Tile",
    "TileKey",
    "Tiles",
    "row_class",
    "shipped_tile",
]

ARCHITECTURES = ("sm_80", "sm_90", "gfx942")
"""What the tiles are chosen for; other devices take those of the nearest one."""

SHARED_BYTES = {"sm_80": 99 * 1024, "sm_90": 227 * 1024, "gfx942": 64 * 1024}
"""Shared memory that one program can have; of sm_80 the least that any of them has, sm_86's."""


@dataclass(frozen=True, slots=True)
class Tile:
    """What one program computes: rows by columns of the output, or of scores; and with what.

    warps: groups of 32 (AMD: 64) threads.  stages: loads under way at once, in loop iterations.
    """

    rows: int
    columns: int
    warps: int = 4
    stages: int = 2


TileKey: TypeAlias = tuple[str, str]
"""A kernel's name, and the class of shapes as the kernel's file names it."""

Tiles: TypeAlias = Mapping[TileKey, Tile]


def _tiles(stages: int, many_stages: int, attention: Tiles) -> Tiles:
    """Those of one architecture; stages: of products of few rows, and of many."""
    return {
        **attention,
        ("code_matmul", "few"): Tile(16, 64, 4, stages),
        ("code_matmul", "some"): Tile(64, 64, 4, stages),
        ("code_matmul", "many"): Tile(128, 64, 8, many_stages),
        ("float_matmul", "few"): Tile(16, 64, 4, stages),
        ("float_matmul", "some"): Tile(64, 64, 4, stages),
        ("float_matmul", "many"): Tile(128, 128, 8, many_stages),
        ("add_segments", ""): Tile(1, 1024, 4, 1),
        ("sampling", ""): Tile(1, 4096, 8, 2),
    }


TILES: Mapping[str, Tiles] = {
    "sm_80": _tiles(
        4,
        3,
        {
            ("attention", "64"): Tile(64, 32, 4, 3),
            ("attention", "128"): Tile(32, 32, 4, 3),
            ("attention", "256"): Tile(32, 32, 8, 2),
            ("attention", "64, int4"): Tile(32, 16, 8, 1),
            ("attention", "128, int4"): Tile(32, 16, 8, 1),
            ("attention", "256, int4"): Tile(16, 16, 8, 1),
            ("latent_attention", ""): Tile(16, 32, 8, 2),
            ("latent_attention", "float32"): Tile(16, 16, 8, 1),
        },
    ),
    "sm_90": _tiles(
        4,
        3,
        {
            ("attention", "64"): Tile(64, 64, 8, 3),
            ("attention", "128"): Tile(64, 32, 8, 3),
            ("attention", "256"): Tile(32, 32, 8, 2),
            ("attention", "64, int4"): Tile(32, 16, 8, 1),
            ("attention", "128, int4"): Tile(32, 16, 8, 1),
            ("attention", "256, int4"): Tile(16, 16, 8, 1),
            ("latent_attention", ""): Tile(16, 32, 8, 3),
            ("latent_attention", "float32"): Tile(16, 16, 8, 1),
        },
    ),
    "gfx942": _tiles(
        2,
        2,
        {
            ("attention", "64"): Tile(64, 32, 4, 2),
            ("attention", "128"): Tile(32, 32, 4, 2),
            ("attention", "256"): Tile(32, 16, 4, 1),
            ("attention", "64, int4"): Tile(64, 32, 4, 2),
            ("attention", "128, int4"): Tile(32, 16, 4, 2),
            ("attention", "256, int4"): Tile(32, 16, 4, 1),
            ("latent_attention", ""): Tile(16, 32, 4, 1),
            ("latent_attention", "float32"): Tile(16, 16, 4, 1),
        },
    ),
}
"""Architecture → its tiles."""


def shipped_tile(architecture: str, kernel: str, shapes: str) -> Tile:
    """The tile of a kernel; ConfigError for an architecture or a class of shapes without one."""
    try:
        return TILES[architecture][kernel, shapes]
    except KeyError:
        raise ConfigError(
            f"no tile is known of {kernel} {shapes} on {architecture!r}; "
            f"architectures are {', '.join(TILES)}"
        ) from None


def row_class(rows: int) -> str:
    """The class of shapes of products: by how many rows there are."""
    return "few" if rows <= 16 else "some" if rows <= 64 else "many"
