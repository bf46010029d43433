"""The tuner takes what is clearly faster, tries nothing that changes a bit, and keeps its finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from triton.runtime.errors import OutOfResources

from quire.backends.torch.triton import tuner
from quire.backends.torch.triton.launcher import Launcher, launcher_of
from quire.backends.torch.triton.tiles import ARCHITECTURES, TILES, Tile
from quire.backends.torch.triton.workloads import MAKERS
from quire.errors import ConfigError
from tests.triton.interpreted_models import Interpreted

KEY = ("float_matmul", "few")
TRIED = (Tile(16, 64), Tile(16, 128), Tile(16, 256), Tile(32, 64))


def fastest(times: dict[Tile, float]) -> tuple[Tile, float]:
    """With kernels that take this long, and of which one does not fit."""
    running: list[Tile] = []

    def start(gpu: Launcher) -> None:
        running.append(gpu.tile(*KEY))
        if times[running[-1]] == 0:
            raise OutOfResources(300, 200, "shared memory")

    def seconds(call: Callable[[], None]) -> float:
        call()
        return times[running[-1]]

    return tuner.fastest_tile("sm_80", KEY, start, seconds, TRIED)


def test_takes_what_is_clearly_faster() -> None:
    assert fastest(dict(zip(TRIED, (1.0, 0.5, 0.0, 0.7), strict=True))) == (TRIED[1], 0.5)
    assert fastest(dict(zip(TRIED, (1.0, 0.96, 0.0, 1.7), strict=True))) == (TRIED[0], 1.0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_candidates_change_no_bit(architecture: str) -> None:
    for key, shipped in TILES[architecture].items():
        found = tuner.candidates(architecture, key)
        assert found[0] == shipped and len(found) == len(set(found)) > 1
        assert key[0] in MAKERS
        for tile in found:
            if key[0] in tuner.ATTENTION:
                assert (tile.rows, tile.columns, tile.warps) == (
                    shipped.rows, shipped.columns, shipped.warps,
                )  # fmt: skip
            elif key[0] in tuner.PRODUCTS:
                assert tile.columns % 64 == 0 and tile.warps % 4 == 0


def test_keeps_its_finds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QUIRE_CACHE_DIR", str(tmp_path))
    assert tuner.kept_tiles("a device") == {}
    tiles = {KEY: Tile(16, 128, 8, 3), ("sampling", ""): Tile(1, 512)}
    tuner.write_tiles(tuner.tuned_path("a device"), tiles)
    assert tuner.kept_tiles("a device") == tiles
    assert tuner.kept_tiles("another") == {}
    gpu = Launcher("sm_80", tuner.kept_tiles("a device"))
    assert gpu.tile(*KEY) == tiles[KEY]
    assert gpu.tile("attention", "64") == TILES["sm_80"]["attention", "64"]


def test_bodies_take_what_was_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QUIRE_CACHE_DIR", str(tmp_path))
    device = Interpreted()
    tuner.write_tiles(tuner.tuned_path(device.model), {KEY: Tile(16, 128, 8, 3)})
    launcher_of.cache_clear()
    gpu = launcher_of(device)
    launcher_of.cache_clear()
    assert gpu.tile(*KEY) == Tile(16, 128, 8, 3)
    assert gpu.tile("attention", "64") == TILES[device.triton_architecture]["attention", "64"]


@pytest.mark.parametrize("content", ["", "{}", '{"version": 1, "tiles": {"x": {"rows": -1}}}'])
def test_refuses_what_holds_no_tiles(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tiles.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"tiles\.json holds no tiles"):
        tuner.read_tiles(path)


def test_refuses_unknown_architectures() -> None:
    with pytest.raises(ConfigError, match="sm_80, sm_90, gfx942"):
        Launcher("sm_42").tile(*KEY)


def test_workloads_start() -> None:
    """On tensors without memory, with a launcher that only looks."""

    class Looking(Launcher):
        def run(self, kernel: object, grid: tuple[int, ...], tile: Tile, /, **_: object) -> None:
            assert min(grid) > 0

    for kernel, shapes in TILES["sm_90"]:
        work = MAKERS[kernel](shapes, torch.device("meta"))
        work.start(Looking("sm_90"))
        assert work.bytes > 0
