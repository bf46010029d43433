"""What stays in host memory: as little as lets a model fit, or what the user asked for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.config import EngineConfig
from quire.errors import CapacityError, ConfigError
from quire.runtime.offload_plan import GIB, OffloadPlan, plan_offload

LAYERS = [[f"{at}.a", f"{at}.b"] for at in range(10)]
SIZES = {"embedding": 500, **{name: 50 for names in LAYERS for name in names}}  # 100 a layer


def plan(usable: int, host_free: int = 10**9, rest: int = 0, **options: Any) -> OffloadPlan:
    config = EngineConfig("demo", backend="torch", **options)
    return plan_offload(config, usable, SIZES, LAYERS, host_free, rest)


def test_what_fits_stays() -> None:
    assert plan(10_000) == OffloadPlan((), 1500, 0)
    assert plan(1500, cpu_offload_gb=0) == OffloadPlan((), 1500, 0)
    assert "none" in plan(10_000).line


@pytest.mark.parametrize(
    ("usable", "rest", "count"), [(1600, 0, 3), (1500, 100, 4), (1500, 250, 5), (1000, 0, 8)]
)
def test_as_few_layers_as_let_the_rest_fit(usable: int, rest: int, count: int) -> None:
    """A tenth of the device is left, or what is needed; two buffers of a layer are there."""
    found = plan(usable, rest=rest)
    assert len(found.layers) == count
    assert found.on_host == 100 * count
    assert found.on_device == 1500 - found.on_host + 200
    assert found.on_device + max(rest, usable // 10) <= usable


def test_they_are_spread() -> None:
    chosen = [int(names[0].split(".")[0]) for names in plan(1500, rest=250).layers]
    assert chosen == [0, 2, 4, 6, 8]


def test_what_does_not_help_is_not_done() -> None:
    """The memory plan then says what is missing."""
    assert plan(600) == OffloadPlan((), 1500, 0)


@given(st.integers(300, 1000))
def test_as_much_as_was_asked_for(wanted: int) -> None:
    found = plan(10_000, cpu_offload_gb=wanted / GIB)
    assert wanted - 100 < found.on_host <= wanted


def test_what_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"three layers of this model.*at least 2\.79e-07"):
        plan(10_000, cpu_offload_gb=299 / GIB)
    with pytest.raises(CapacityError, match="the host has 0 MiB free"):
        plan(1500, host_free=299, rest=100)
