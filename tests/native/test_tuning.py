"""Tunings: the same bits whatever they say, their defaults, and what measuring finds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from quire.backends.native import abi as c
from quire.backends.native import library, tuner
from quire.backends.native.record_writer import DTYPE_CODES
from quire.backends.native.tuning import Tuning, check_tunings, default_tunings
from quire.errors import ConfigError
from quire.quant.packed import INTEGER_DTYPES
from tests.native import numbers
from tests.native.one_op import add_packed_part, add_part, run
from tests.native.quantizing import quantize, random_float8, random_packed

MOST = 2**30 - 1
PLAIN = Tuning(4, 2, 4096, 65536, 65536)


def random_tuning(rng: np.random.Generator) -> Tuning:
    """Mostly odd numbers, some at their limits."""
    return Tuning(
        tile_rows=int(rng.integers(1, 12)),
        ahead_rows=int(rng.integers(1, 12)),
        ahead_bytes=int(rng.choice([1, 7, 4096, 123457, MOST])),
        block_bytes=int(rng.choice([1, 5000, 30000, MOST])),
        chunk_bytes=int(rng.choice([1, 1000, 20000, MOST])),
    )


@pytest.mark.parametrize("dtype", DTYPE_CODES)
def test_every_tuning_gives_the_same_bits(pools, isa, rng, dtype):
    """Tiles, blocks of rows and chunks of every size, on one to three threads."""
    n, k, m = 75, 200, 90
    x = rng.standard_normal((m, k)).astype(np.float32)
    op = c.Op(kind=c.OP_LINEAR)
    if dtype == "F8_E4M3":
        add_packed_part(op, random_float8(rng, (n, k), 48), None)
    elif dtype in INTEGER_DTYPES:
        x = quantize(pools[1], isa, x)
        table = tuple(range(-80, 80, 10)) if dtype == "TABLE4" else ()
        add_packed_part(op, random_packed(rng, dtype, (n, k), 64, table=table), None)
    else:
        weight = numbers.store(rng.standard_normal((n, k)).astype(np.float32), DTYPE_CODES[dtype])
        add_part(op, weight, DTYPE_CODES[dtype])
    (expected,) = run(pools[1], isa, op, [x], [n])
    for i in range(30):
        tunings = {name: random_tuning(rng) for name in DTYPE_CODES}
        first, count = int(rng.integers(0, 20)), int(rng.choice([1, 2, 3, 5, 8, 13, 17, 33, 70]))
        rows = x[first : first + count]
        (out,) = run(pools[1 + i % 3], isa, op, [rows], [n], tunings=tunings)
        assert numbers.same_bits(out, expected[first : first + count]), tunings[dtype]


def test_the_default_is_what_the_library_takes_by_itself(isa):
    tunings = default_tunings(isa, None)
    assert set(tunings) == set(DTYPE_CODES)
    check_tunings(tunings, isa)


@pytest.mark.parametrize(
    ("level2", "block"),
    [(None, 512), (1024, 512), (256, 128), (64, 128), (4096, 1024)],
)
def test_blocks_of_rows_fill_half_of_the_second_level_cache(level2, block):
    tunings = default_tunings(c.PORTABLE, level2 and level2 * 1024)
    assert {tuning.block_bytes for tuning in tunings.values()} == {block * 1024}


@pytest.mark.parametrize("value", [0, -1, 2**30, 1.5, True, None, "8"])
def test_numbers_out_of_range_are_refused(value):
    with pytest.raises(ConfigError, match="ahead_rows is"):
        replace(PLAIN, ahead_rows=value)


def test_tilings_that_do_not_fit_are_refused(isa):
    tunings = default_tunings(isa, None)
    taller = replace(tunings["INT4"], tile_rows=tunings["INT4"].tile_rows + 1)
    with pytest.raises(ConfigError, match=f"INT4 has tile_rows {taller.tile_rows}; .* room for"):
        check_tunings({**tunings, "INT4": taller}, isa)
    with pytest.raises(ConfigError, match="nothing is said of F16"):
        check_tunings({"F32": tunings["F32"], "INT4": tunings["INT4"]}, isa)


def test_measuring_changes_only_what_was_clearly_slower(pool, monkeypatch):
    """With made-up times: four rows a tile are best, and all else makes no difference."""

    def shares(_bench, dtype, rows, tunings):
        best = [0.8 if each[dtype].tile_rows == 4 else 0.97 for each in tunings]
        return [1.0, *best[1:]]

    monkeypatch.setattr(tuner._Bench, "shares", shares)
    start = {dtype: replace(PLAIN, tile_rows=8) for dtype in DTYPE_CODES}
    tunings, gains = tuner.tune(pool, library.best_isa(), start, ["INT4"])
    assert tunings == {**start, "INT4": PLAIN}
    changed = [gain for gain in gains if gain.before != gain.after]
    assert changed == [tuner.Gain("INT4", "tile_rows", 8, 4, 0.8)]


def test_what_is_too_good_to_be_true_is_not_taken(pool, monkeypatch):
    monkeypatch.setattr(tuner._Bench, "shares", lambda *each: [1.0, *[0.03] * (len(each[3]) - 1)])
    start = dict.fromkeys(DTYPE_CODES, PLAIN)
    tunings, gains = tuner.tune(pool, library.best_isa(), start, ["INT4"])
    assert tunings == start and {gain.share for gain in gains} == {0.03}


def test_measuring_for_real_finds_something_that_can_run(pool, monkeypatch):
    monkeypatch.setattr(tuner, "SECONDS", 0.0)
    isa = library.best_isa()
    tunings, gains = tuner.tune(pool, isa, default_tunings(isa, None), ["INT4", "BF16"])
    check_tunings(tunings, isa)
    names = [parameter.name for parameter in tuner.PARAMETERS]
    assert [(gain.dtype, gain.parameter) for gain in gains] == [
        (dtype, name) for dtype in ("INT4", "BF16") for name in names
    ]
    assert all(0 < gain.share <= 1 for gain in gains)
