"""How the native kernels cut matrix products: five numbers for each format of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields, replace
from typing import Any

from quire.backends.native import abi as c
from quire.backends.native import library
from quire.backends.native.record_writer import DTYPE_CODES
from quire.errors import ConfigError

__all__ = ["Tuning", "Tunings", "check_tunings", "default_tunings", "tuning_records"]

KIB = 1024
LEAST_BLOCK_BYTES, MOST_BLOCK_BYTES = 128 * KIB, 1024 * KIB


@dataclass(frozen=True, slots=True)
class Tuning:
    """quire_tuning of csrc/include/quire.h: every choice gives the same bits.

    Raises ConfigError for a number that is none, or out of range.
    """

    tile_rows: int
    ahead_rows: int
    ahead_bytes: int
    block_bytes: int
    chunk_bytes: int

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if type(value) is not int or not 0 < value < 2**30:
                raise ConfigError(f"tuning: {each.name} is {value!r}; give a whole number above 0")


Tunings = Mapping[str, Tuning]
"""Format of weights, as in DTYPE_CODES, → how its products are cut."""


def default_tunings(isa: int, level2_bytes: int | None) -> dict[str, Tuning]:
    """What is right nearly everywhere; level2_bytes: of second-level cache for each core."""
    records = (c.Tuning * c.NUM_DTYPES)()
    library.check(library.load().quire_default_tunings(isa, records))
    names = [each.name for each in fields(Tuning)]
    found = {
        dtype: Tuning(*(getattr(records[code], name) for name in names))
        for dtype, code in DTYPE_CODES.items()
    }
    if level2_bytes is None:
        return found
    block = min(max(level2_bytes // 2, LEAST_BLOCK_BYTES), MOST_BLOCK_BYTES)
    return {dtype: replace(tuning, block_bytes=block) for dtype, tuning in found.items()}


def check_tunings(tunings: Tunings, isa: int) -> None:
    """Raises ConfigError for a format that is missing, or a tile that the kernels cannot hold."""
    for dtype, most in default_tunings(isa, None).items():
        if dtype not in tunings:
            raise ConfigError(f"tuning: nothing is said of {dtype}")
        if tunings[dtype].tile_rows > most.tile_rows:
            raise ConfigError(
                f"tuning: {dtype} has tile_rows {tunings[dtype].tile_rows}; the kernels of "
                f"{c.ISA_NAMES[isa]} have room for {most.tile_rows}"
            )


def tuning_records(tunings: Tunings) -> Any:
    """The array that quire_program points to."""
    records = (c.Tuning * c.NUM_DTYPES)()
    for dtype, code in DTYPE_CODES.items():
        records[code] = c.Tuning(*astuple(tunings[dtype]))
    return records
