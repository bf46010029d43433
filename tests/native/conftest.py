"""Thread pools shared by the tests of the native backend."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from quire.backends.native import abi as c
from quire.backends.native import library


@pytest.fixture(scope="session")
def pools() -> Iterator[dict[int, library.ThreadPool]]:
    """Pools of 1, 2 and 3 threads."""
    made = {n: library.ThreadPool(n) for n in (1, 2, 3)}
    yield made
    for pool in made.values():
        pool.close()


@pytest.fixture
def pool(pools: dict[int, library.ThreadPool]) -> library.ThreadPool:
    """Two threads."""
    return pools[2]


@pytest.fixture(params=library.available_isas(), ids=lambda isa: c.ISA_NAMES[isa])
def isa(request: pytest.FixtureRequest) -> int:
    """Each instruction set that this machine can run."""
    return int(request.param)


@pytest.fixture
def rng() -> np.random.Generator:
    """The same random numbers in every run."""
    return np.random.default_rng(7)
