"""Experts stay in their files when, and only when, all weights would not fit."""

from __future__ import annotations

from quire.config import EngineConfig
from quire.runtime.placement import place_weights

GIB = 1024**3
CONFIG = EngineConfig("x", memory_utilization=0.5)


def test_what_fits_stands_in_memory() -> None:
    placement = place_weights(CONFIG, 40 * GIB, 18 * GIB, 15 * GIB)
    assert (placement.planned, placement.mapped) == (18 * GIB, 0)


def test_what_leaves_too_little_stays_mapped() -> None:
    """A tenth of what may be used is not for weights; the pages of experts get 3/4 of the rest."""
    placement = place_weights(CONFIG, 40 * GIB, 19 * GIB, 11 * GIB)
    assert (placement.planned, placement.mapped) == (8 * GIB + 9 * GIB, 11 * GIB)
    larger = place_weights(CONFIG, 40 * GIB, 108 * GIB, 100 * GIB)
    assert (larger.planned, larger.mapped) == (8 * GIB + 9 * GIB, 100 * GIB)
    assert "about 10,240.0 MiB of them" in larger.note(GIB, GIB)


def test_weights_that_every_token_reads_never_do() -> None:
    assert place_weights(CONFIG, 40 * GIB, 60 * GIB, 0).planned == 60 * GIB
    assert place_weights(CONFIG, 40 * GIB, 60 * GIB, GIB).planned == 59 * GIB  # and is refused


def test_a_size_of_the_cache_that_was_asked_for() -> None:
    config = EngineConfig("x", kv_cache_memory_bytes=2 * GIB)
    assert place_weights(config, 10 * GIB, 7 * GIB, 6 * GIB).mapped == 0
    placement = place_weights(config, 10 * GIB, 9 * GIB, 6 * GIB)
    assert (placement.planned, placement.mapped) == (3 * GIB, 6 * GIB)
