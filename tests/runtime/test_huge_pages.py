"""What is moved into huge pages is the same; what was never mapped stays where it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quire.runtime.huge_pages import has_huge_pages, in_huge_pages
from quire.weights.mapped_file import map_file
from quire.weights.tensor import RawTensor

SHAPES = {"large": (1100, 4096), "small": (3, 5), "kept": (7, 9), "made": (4, 4)}


def weights_in(path: Path) -> dict[str, RawTensor]:
    """Tensors one behind the other in a mapped file, and one that was computed."""
    random = np.random.default_rng(0)
    values = {name: random.normal(size=shape).astype("<f4") for name, shape in SHAPES.items()}
    path.write_bytes(b"".join(each.tobytes() for name, each in values.items() if name != "made"))
    raw, start, found = map_file(path), 0, {}
    for name, each in values.items():
        data = raw[start : start + each.nbytes] if name != "made" else each.reshape(-1).view("u1")
        found[name] = RawTensor.from_bytes(name, "F32", each.shape, data)
        start += each.nbytes
    return found


def test_moved_weights_are_the_same(tmp_path: Path) -> None:
    before = weights_in(tmp_path / "weights")
    after = in_huge_pages(before, {"made", "small", "large"}, threads=2)
    for name, weight in before.items():
        np.testing.assert_array_equal(after[name].data, weight.data)
        assert np.shares_memory(after[name].data, weight.data) == (name in ("kept", "made"))
        assert after[name].shape == weight.shape and after[name].dtype == weight.dtype
    for name in ("large", "small"):
        assert after[name].data.ctypes.data % 64 == 0


def test_moved_weights_keep_their_order(tmp_path: Path) -> None:
    before = weights_in(tmp_path / "weights")
    for names in (["large", "small", "kept"], ["kept", "small", "large"]):
        after = in_huge_pages(before, names, threads=2)
        places = [after[name].data.ctypes.data for name in ("large", "small", "kept")]
        assert places == sorted(places)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="no count of resident pages")
def test_moved_weights_are_in_memory_once(tmp_path: Path) -> None:
    before = weights_in(tmp_path / "weights")
    before["large"].data.sum()
    assert resident_kib(tmp_path / "weights") > 16_000
    after = in_huge_pages(before, ["large", "small"], threads=2)
    assert resident_kib(tmp_path / "weights") < 300
    np.testing.assert_array_equal(after["large"].data, before["large"].data)


def resident_kib(path: Path) -> int:
    """How much of a mapped file is in this process's memory."""
    _, _, maps = Path("/proc/self/smaps").read_text().partition(str(path.resolve()))
    rss = next(line for line in maps.splitlines() if line.startswith("Rss:"))
    return int(rss.split()[1])


def test_no_weight_is_mapped(tmp_path: Path) -> None:
    before = weights_in(tmp_path / "weights")
    assert in_huge_pages(before, ["made"], threads=1)["made"] is before["made"]


def test_a_system_without_huge_pages(tmp_path: Path) -> None:
    for text, has in (("always [madvise] never", True), ("always madvise [never]", False)):
        (tmp_path / "enabled").write_text(text)
        assert has_huge_pages(tmp_path / "enabled") == has
    assert not has_huge_pages(tmp_path / "nothing")
