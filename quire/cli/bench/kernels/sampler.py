"""Calls of the native sampler, on rows of made-up logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from quire.backends.native import abi as c
from quire.backends.native import library
from quire.cli.bench.kernels.cases import Case
from quire.cli.bench.kernels.machine import Machine

__all__ = ["SAMPLINGS", "sampler"]

SAMPLINGS: Mapping[str, Mapping[str, Any]] = {
    "greedy": {"temperature": 0},
    "temperature": {},
    "top-k 50": {"top_k": 50},
    "top-p 0.95": {"top_p": 0.95},
    "top-k 50 top-p 0.9": {"top_k": 50, "top_p": 0.9},
    "min-p 0.05": {"min_p": 0.05},
    "greedy, 20 logprobs": {"temperature": 0, "num_logprobs": 20},
}
"""Name → fields of SAMPLE_ROW."""

SPREAD = 5.0
"""The logits' standard deviation: a model that is fairly sure, where top-p keeps few tokens."""


def sampler(machine: Machine, name: str, vocab_size: int, rows: int) -> Case:
    """A sampling of SAMPLINGS on rows of Gaussian logits, which are made anew for each call."""
    draw = np.random.default_rng(0).standard_normal
    logits = draw((rows, vocab_size), np.float32) * np.float32(SPREAD)
    work = logits.copy()
    records, results = np.zeros(rows, c.SAMPLE_ROW), np.zeros(rows, c.SAMPLE_RESULT)
    records["temperature"] = records["top_p"] = records["repetition_penalty"] = 1
    records["target"] = records["num_logprobs"] = -1
    for field, value in SAMPLINGS[name].items():
        records[field] = value
    top_ids, top_logprobs = np.zeros((rows, 32), np.int32), np.zeros((rows, 32), np.float32)
    for row in range(rows):
        results["top_ids"][row] = top_ids[row].ctypes.data
        results["top_logprobs"][row] = top_logprobs[row].ctypes.data
    kept = (top_ids, top_logprobs)

    def prepare() -> None:
        work[:] = logits
        records["output_index"] += 1  # another draw

    def call() -> None:
        status = library.load().quire_sample(
            machine.pool.handle, machine.isa, work.ctypes.data, vocab_size, vocab_size, rows,
            records.ctypes.data, results.ctypes.data,
        )  # fmt: skip
        library.check(status)
        assert kept

    return Case("sampler", "float32", rows, name, [call], 4 * rows * vocab_size, prepare=prepare)
