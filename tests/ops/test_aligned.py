"""Memory that begins on a cache line."""

from __future__ import annotations

import pytest

from quire.ops.aligned import CACHE_LINE, aligned_zeros


@pytest.mark.parametrize("size", [1, 63, 64, 1000, 5_000_000])
def test_zeros_begin_on_a_cache_line(size: int) -> None:
    memory = [aligned_zeros(size) for _ in range(5)]
    assert all(each.ctypes.data % CACHE_LINE == 0 for each in memory)
    assert all(each.size == size and not each.any() for each in memory)
