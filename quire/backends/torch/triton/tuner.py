"""Measures which tiles are the fastest on the device at hand, and keeps them for the next start.

Only numbers that change no bit are tried: how many outputs and rows a program of a product takes,
its warps, and how far loads run ahead.  Columns are added, and keys are seen, in the same order in
every candidate.  One that is not clearly faster than the shipped tile is not taken.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import triton
from triton.runtime.errors import OutOfResources

from quire.backends.torch.triton.launcher import Launcher
from quire.backends.torch.triton.tiles import Tile, TileKey, shipped_tile
from quire.config import cache_directory
from quire.errors import ConfigError
from quire.whole_file import whole_file

__all__ = ["candidates", "fastest_tile", "kept_tiles", "read_tiles", "tuned_path", "write_tiles"]

CLEARLY = 0.95
"""A candidate must take less than this share of the shipped tile's time."""

TURNS = 7
VERSION = 1
ROWS = {"few": (16,), "some": (32, 64), "many": (64, 128, 256)}
PRODUCTS = ("code_matmul", "float_matmul")
ATTENTION = ("attention", "latent_attention")


def candidates(architecture: str, key: TileKey) -> tuple[Tile, ...]:
    """The shipped tile first, then what else may be tried."""
    kernel, shapes = key
    shipped = shipped_tile(architecture, kernel, shapes)
    if kernel in PRODUCTS:
        # 64 outputs and 4 warps at least: below, sm_90 would take other instructions.
        cuts = product(ROWS[shapes], (64, 128), (4, 8), (2, 3, 4))
        others = [Tile(*each) for each in cuts]
    elif kernel in ATTENTION:  # other cuts would add in another order
        others = [replace(shipped, stages=stages) for stages in (1, 2, 3, 4)]
    else:  # sums of segments go one after the other, and those of weights are exact
        others = [replace(shipped, columns=n, warps=w) for n in (512, 1024, 4096) for w in (4, 8)]
    return (shipped, *(each for each in others if each != shipped))


def fastest_tile(
    architecture: str,
    key: TileKey,
    start: Callable[[Launcher], None],
    seconds: Callable[[Callable[[], None]], float],
    tiles: Sequence[Tile] = (),
) -> tuple[Tile, float]:
    """The best tile, and the share of the first one's time that it takes.

    start: starts the kernel.  seconds: the time a call takes on the device.  tiles: what to try,
    the one to beat first; candidates() if none are given.  Tiles that do not fit are left out.
    """
    left = {}
    for tile in tiles or candidates(architecture, key):
        call = _call(start, Launcher(architecture, {key: tile}))
        with contextlib.suppress(OutOfResources):
            call()
            left[tile] = call
    times: dict[Tile, list[float]] = {tile: [] for tile in left}
    for _ in range(TURNS):
        for tile, call in left.items():
            times[tile].append(seconds(call))
    medians = {tile: statistics.median(each) for tile, each in times.items()}
    first = next(iter(medians))
    best = min(medians, key=medians.__getitem__)
    if medians[best] >= CLEARLY * medians[first]:
        best = first
    return best, medians[best] / medians[first]


def _call(start: Callable[[Launcher], None], gpu: Launcher) -> Callable[[], None]:
    return lambda: start(gpu)


def tuned_path(device_name: str) -> Path:
    """Where the tiles of a device are kept: under a name that changes with all kernels."""
    digest = hashlib.blake2b(digest_size=16)
    for fact in (str(VERSION), device_name, triton.__version__):
        digest.update(fact.encode() + b"\0")
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return cache_directory() / "triton" / f"{digest.hexdigest()}.json"


def kept_tiles(device_name: str) -> dict[TileKey, Tile]:
    """The tiles that were measured on this device with these kernels, if any."""
    path = tuned_path(device_name)
    return read_tiles(path) if path.is_file() else {}


def read_tiles(path: Path) -> dict[TileKey, Tile]:
    """The tiles in a file.  Raises ConfigError, which names the file."""
    try:
        content = json.loads(path.read_bytes())
        if content["version"] != VERSION:
            raise ValueError(f"version {content['version']}, not {VERSION}")
        return {_key(name): _tile(given) for name, given in content["tiles"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path} holds no tiles ({error}); delete it") from error


def write_tiles(path: Path, tiles: Mapping[TileKey, Tile]) -> None:
    """Write tiles to a file in one move."""
    named = {" ".join(key).strip(): asdict(tile) for key, tile in tiles.items()}
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with whole_file(path) as file:
        file.write(json.dumps({"version": VERSION, "tiles": named}, indent=2).encode() + b"\n")


def _key(name: str) -> TileKey:
    kernel, _, shapes = name.partition(" ")
    return kernel, shapes


def _tile(given: Mapping[str, Any]) -> Tile:
    tile = Tile(**given)
    numbers = (tile.rows, tile.columns, tile.warps, tile.stages)
    if any(type(each) is not int or each < 1 for each in numbers):
        raise ValueError(f"{dict(given)} is no tile")
    return tile
