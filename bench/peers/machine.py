"""This machine in words, and its rates measured by Quire's own kernels."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers.shapes import Precision
from quire.backends.native import library
from quire.runtime.machine import inspect_machine

__all__ = ["PEAKS", "MachineRates", "describe"]

PEAKS: Mapping[Precision, str] = {
    "bf16": "quire_measure_bfloat16",
    "int8": "quire_measure_int8",
    "int4": "quire_measure_int8",
}
"""The call that counts the multiply-adds of a precision; 0 where there are none as narrow."""

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "asimddp")
READ_FLOATS = 64 << 20
ITERATIONS = 2_000_000


class MachineRates:
    """The best rates seen so far: "read" in bytes/s, a precision in operations/s.

    Memory that other machines use too is faster in one minute than in the next, arithmetic is not.
    """

    def __init__(self, threads: int) -> None:
        self.best: dict[str, float] = {}
        self._pool = library.ThreadPool(threads)

    def calibrate(self, rounds: int = 3) -> Mapping[str, float]:
        """Measure again; the memory is given back, so that engines have it."""
        functions, handle, isa = library.load(), self._pool.handle, library.best_isa()
        self.read_now(rounds)
        for _ in range(rounds):
            for precision, call in PEAKS.items():
                start = time.perf_counter()
                count = getattr(functions, call)(handle, isa, ITERATIONS)
                if not count:
                    start = time.perf_counter()
                    count = functions.quire_measure_fma(handle, isa, ITERATIONS)
                self._note(precision, count, start)
        return self.best

    def read_now(self, rounds: int = 5) -> float:
        """Bytes per second that memory is read at, in the median of so many rounds."""
        functions, handle, isa = library.load(), self._pool.handle, library.best_isa()
        memory = np.ones(READ_FLOATS, np.float32)
        found = []
        for _ in range(rounds):
            start = time.perf_counter()
            count = functions.quire_measure_read(handle, isa, memory.ctypes.data, READ_FLOATS)
            found.append(self._note("read", count, start))
        return statistics.median(found)

    def _note(self, name: str, count: float, start: float) -> float:
        rate = count / (time.perf_counter() - start)
        self.best[name] = max(self.best.get(name, 0.0), rate)
        return rate


def describe(threads: int) -> dict[str, Any]:
    """What a table of measurements must say of the machine."""
    machine = inspect_machine()
    cpuinfo = Path("/proc/cpuinfo")
    words = set(cpuinfo.read_text().split()) if cpuinfo.is_file() else set()
    return {
        "processor": machine.processor,
        "flags": [flag for flag in FLAGS if flag in words],
        "cores": machine.cores,
        "threads": threads,
        "memory_gib": round(machine.total_memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "date": time.strftime("%Y-%m-%d"),
        "load_before": round(os.getloadavg()[0], 2),
    }
