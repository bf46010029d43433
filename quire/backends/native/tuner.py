"""Measures which tuning is the fastest on this machine, in a few hundred milliseconds.

One number after another, the others as they stand: each candidate computes products of several
heights with one short and one long matrix, in turns with all others, and counts at its best time.
A candidate that is not clearly faster than the default, or too much faster, is not taken, so that
noise changes nothing.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

from quire.backends.native import abi as c
from quire.backends.native import library
from quire.backends.native.record_writer import DTYPE_CODES, ROW_DTYPES
from quire.backends.native.tuning import Tuning, Tunings, tuning_records
from quire.ops.aligned import CACHE_LINE, aligned_zeros
from quire.ops.quantize import row_floats

__all__ = ["BELIEVED", "PARAMETERS", "Gain", "Parameter", "tune"]

KIB = 1024
CLEARLY = 0.95
"""A candidate must take less than this share of the default's time."""
BELIEVED = 0.4
"""And more than this: no cut brings so much, but a program that ran beside the default does."""

SECONDS, LATE_SECONDS = 0.02, 0.1  # for each number of each format; slow kernels get more
MIN_TURNS, MOST_TURNS = 3, 1000
INPUTS = (896, 4096)  # of the matrices
MATRIX_BYTES, MEMORY_BYTES = 3072 * KIB, 96 * 1024 * KIB
FILL = 0x3F  # makes numbers near 1 in every format
WIDE_TABLE = tuple(range(-128, 128, 17))  # not of the small numbers that are easier
GROUP_SIZES = {"INT4": 32, "INT8": 128, "TABLE4": 32, "F8_E4M3": 128}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A number to choose, what may be chosen, and the rows of activations that tell."""

    name: str
    candidates: tuple[int, ...]
    rows: tuple[int, ...]


PARAMETERS = (
    Parameter("chunk_bytes", (64 * KIB, 128 * KIB, 256 * KIB, 512 * KIB), (1, 4)),
    Parameter("ahead_bytes", (2 * KIB, 4 * KIB, 8 * KIB, 16 * KIB, 32 * KIB, 64 * KIB), (1, 4, 8)),
    Parameter("ahead_rows", (1, 2, 3, 5, 9), (1, 2, 4, 8)),
    Parameter("tile_rows", (2, 3, 4, 6, 8), (8, 32)),
)
"""In the order in which they are chosen.  block_bytes follows from the caches."""


@dataclass(frozen=True, slots=True)
class Gain:
    """One choice: what was, what is, and the time it takes as a share of what it took.

    A share below BELIEVED is the best candidate's, which was not taken.
    """

    dtype: str
    parameter: str
    before: int
    after: int
    share: float


def tune(
    pool: library.ThreadPool, isa: int, start: Tunings, dtypes: Sequence[str] = ()
) -> tuple[dict[str, Tuning], list[Gain]]:
    """The best tunings from `start` on, for some formats or all, and what each choice gains."""
    bench, tunings, gains = _Bench(pool, isa), dict(start), []
    for dtype in dtypes or tunings:
        room = start[dtype].tile_rows
        for parameter in PARAMETERS:
            before = getattr(tunings[dtype], parameter.name)
            wanted = [n for n in parameter.candidates if parameter.name != "tile_rows" or n <= room]
            others = [n for n in wanted if n != before]
            changed = [replace(tunings[dtype], **{parameter.name: n}) for n in (before, *others)]
            shares = bench.shares(dtype, parameter.rows, [{**tunings, dtype: t} for t in changed])
            best = min(range(len(shares)), key=lambda i: shares[i])
            share = shares[best] if shares[best] < CLEARLY else 1.0
            best = best if BELIEVED <= share < CLEARLY else 0
            tunings[dtype] = changed[best]
            after = getattr(changed[best], parameter.name)
            gains.append(Gain(dtype, parameter.name, before, after, share))
    return tunings, gains


class _Bench:
    """Products with matrices that were not read lately."""

    def __init__(self, pool: library.ThreadPool, isa: int) -> None:
        self._pool, self._isa = pool, isa
        self._memory = aligned_zeros(max(MEMORY_BYTES, 8 * self._matrix_bytes))
        self._memory[:] = FILL

    @property
    def _matrix_bytes(self) -> int:
        """Enough for every thread to come often."""
        return MATRIX_BYTES * max(1, self._pool.num_threads // 4)

    def shares(self, dtype: str, rows: Sequence[int], tunings: Sequence[Tunings]) -> list[float]:
        """The time of each tuning over that of the first, as a mean of ratios."""
        records = [tuning_records(each) for each in tunings]
        calls = [self._call(dtype, m, k) for m in rows for k in INPUTS]
        best = [[math.inf] * len(calls) for _ in records]
        start = time.perf_counter()
        for turn in range(MOST_TURNS):
            passed = time.perf_counter() - start
            if passed >= (SECONDS if turn >= MIN_TURNS else LATE_SECONDS) and turn > 0:
                break
            for i, call in enumerate(calls):
                call(records[0])  # or the first of them would pay for code and rows to come near
                for j in range(turn, turn + len(records)):
                    which = j % len(records)
                    best[which][i] = min(best[which][i], call(records[which]))
        logs = [[math.log(a / b) for a, b in zip(times, best[0], strict=True)] for times in best]
        return [math.exp(sum(each) / len(each)) for each in logs]

    def _call(self, dtype: str, rows: int, inputs: int) -> Callable[[Any], float]:
        """Takes the time of a product with the next matrix, under a tuning."""
        matrix = c.Matrix(None, 16, inputs, DTYPE_CODES[dtype], GROUP_SIZES.get(dtype, 0))
        matrix.table[:] = WIDE_TABLE
        per_row = library.load().quire_matrix_bytes(ctypes.byref(matrix)) // 16
        matrix.rows = self._matrix_bytes // per_row // 16 * 16
        row_dtype = library.load().quire_row_dtype(self._isa, DTYPE_CODES[dtype])
        format = next(name for name, code in ROW_DTYPES.items() if code == row_dtype)
        width = row_floats(inputs, format)
        arena = aligned_zeros(4 * rows * (width + matrix.rows))
        arena[:] = FILL  # pages of zeros might all be the same one
        op = c.Op(kind=c.OP_LINEAR, num_parts=1, row_dtype=row_dtype)
        op.inputs[0] = c.Tensor(0, width, inputs)
        op.outputs[0] = c.Tensor(rows * width, matrix.rows, matrix.rows)
        op.parts[0] = matrix
        program = c.Program(
            body=ctypes.pointer(op), num_body=1, arena=arena.ctypes.data,
            pool=self._pool.handle, isa=self._isa,
        )  # fmt: skip
        step, run, addresses = c.Step(num_tokens=rows), library.load().quire_run, self._addresses()

        def call(tunings: Any) -> float:
            op.parts[0].data, program.tunings = next(addresses), tunings
            start = time.perf_counter()
            library.check(run(ctypes.byref(program), ctypes.byref(step)))
            assert arena is not None
            return time.perf_counter() - start

        return call

    def _addresses(self) -> Iterator[int]:
        """Where matrices begin, all over the memory."""
        size = self._matrix_bytes // CACHE_LINE * CACHE_LINE
        first = self._memory.ctypes.data
        return cycle(range(first, first + self._memory.size - size + 1, size))
