"""One thread pool and instruction set: measures the machine's rates, and the time of calls."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.backends.native import library
from quire.ops.aligned import aligned_zeros

__all__ = ["Call", "Machine"]

MEMORY_BYTES = 256 << 20
READ_BYTES, ITERATIONS = 32 << 20, 100_000
"""Of one look at a rate: short, so that some have all cores to themselves."""

LOOKS = 8
WAKING_BARRIERS = 20  # after which no thread of the pool sleeps
MIN_CALLS = 3

Call = Callable[[], None]


class Machine:
    """Rates are the best seen so far: other programs only ever make them, and kernels, slower.

    With one thread, times are of that thread's own CPU time, which other programs disturb less.
    """

    def __init__(self, threads: int, isa: int) -> None:
        self.pool, self.isa = library.ThreadPool(threads), isa
        self.rates = {"read": 0.0, "fma": 0.0, "bfloat16": 0.0, "int8": 0.0}
        self.clock = time.thread_time if threads == 1 else time.perf_counter
        self._memory = _filled(max(MEMORY_BYTES, 2 * _last_level_cache()))

    def memory(self, num_bytes: int) -> npt.NDArray[np.uint8]:
        """At least so many bytes, and more than the caches hold; finite in every format."""
        if num_bytes > self._memory.size:
            self._memory = _filled(num_bytes)
        return self._memory

    def calibrate(self) -> None:
        """Measure the rates once more; what is read was not read lately."""
        functions, handle, isa = library.load(), self.pool.handle, self.isa
        for look in range(LOOKS):
            address = self._memory.ctypes.data + look * READ_BYTES
            self._note("read", functions.quire_measure_read, handle, isa, address, READ_BYTES // 4)
            self._note("fma", functions.quire_measure_fma, handle, isa, ITERATIONS)
            self._note("bfloat16", functions.quire_measure_bfloat16, handle, isa, ITERATIONS)
            self._note("int8", functions.quire_measure_int8, handle, isa, ITERATIONS)

    def barrier_s(self, count: int = 2000) -> float:
        """Seconds that a parallel job costs when every thread takes part."""
        start = time.perf_counter()
        library.load().quire_measure_barriers(self.pool.handle, count)
        return (time.perf_counter() - start) / count

    def best_s(self, calls: list[Call], seconds: float, prepare: Call | None = None) -> float:
        """The shortest time of one call; they are made in turn, each after `prepare`."""
        best, end = float("inf"), time.perf_counter() + seconds
        for count, call in enumerate(cycle(calls)):
            if count > MIN_CALLS and time.perf_counter() >= end:
                break
            if prepare is not None:
                prepare()
            start = self.clock()
            call()
            passed = self.clock() - start
            best = min(best, passed) if count else best  # the first call warms up
        return best

    def _note(self, name: str, measure: Callable[..., int], *arguments: Any) -> None:
        library.load().quire_measure_barriers(self.pool.handle, WAKING_BARRIERS)
        start = self.clock()
        count = measure(*arguments)
        self.rates[name] = max(self.rates[name], count / (self.clock() - start))


def _filled(num_bytes: int) -> npt.NDArray[np.uint8]:
    """Ones in float32: pages that are zero might all be the same one, and stay in the cache."""
    memory = aligned_zeros(-(-num_bytes // 4) * 4)
    memory.view(np.float32)[:] = 1
    return memory


def _last_level_cache() -> int:
    """Bytes, 0 where the system does not say."""
    names = ("SC_LEVEL4_CACHE_SIZE", "SC_LEVEL3_CACHE_SIZE")
    known = getattr(os, "sysconf_names", {})
    return max((os.sysconf(name) for name in names if name in known), default=0)
