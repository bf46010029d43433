"""What the tuner and the benchmark start of each kernel: shapes of an 8 B model, random numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from quire.backends.torch.triton.attention import (
    AttentionInputs,
    AttentionRules,
    CachedHeads,
    attend,
    num_chunks,
    query_tiles,
    tokens_per_tile,
)
from quire.backends.torch.triton.float8_matmul import float8_matmul
from quire.backends.torch.triton.float_matmul import float_matmul
from quire.backends.torch.triton.int4_matmul import Int4Weight, add_partial_sums, int4_matmul
from quire.backends.torch.triton.int8_matmul import int8_matmul
from quire.backends.torch.triton.launcher import Launcher
from quire.backends.torch.triton.sampling import SamplingRows, sample

__all__ = ["Workload", "workload"]

ROWS = {"few": 8, "some": 64, "many": 2048}
OUTPUTS, COLUMNS, GROUP = 6144, 4096, 128
REQUESTS, CONTEXT, BLOCK_TOKENS, HEADS, KV_HEADS = 32, 2048, 16, 32, 8
SAMPLED, VOCABULARY = 32, 151936


@dataclass(frozen=True, slots=True)
class Workload:
    """One start of a kernel; bytes: what it must at least move.  flops: what it must compute."""

    start: Callable[[Launcher], None]
    bytes: int
    flops: int


def workload(kernel: str, shapes: str, device: torch.device) -> Workload:
    """The work that a key of tiles.TILES is measured with; KeyError for one without any."""
    return MAKERS[kernel](shapes, device)


def _codes(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.randint(0, 120, shape, dtype=dtype, device=device)


def _product(kernel: str, shapes: str, device: torch.device) -> Workload:
    rows, half = ROWS[shapes], torch.bfloat16
    x = torch.randn(rows, COLUMNS, dtype=half, device=device)
    out = torch.empty(rows, OUTPUTS, dtype=half, device=device)
    scales, facts = torch.rand(OUTPUTS, device=device), torch.rand(rows, device=device)
    size = {"int4_matmul": 0.5 + 2 / GROUP, "float_matmul": 2.0}.get(kernel, 1.0)
    work = Workload(
        lambda gpu: None,
        int(OUTPUTS * COLUMNS * size) + 2 * rows * (COLUMNS + OUTPUTS),
        2 * rows * OUTPUTS * COLUMNS,
    )
    if kernel == "int4_matmul":
        codes = _codes((COLUMNS // 64, OUTPUTS, 32), torch.uint8, device)
        group_scales = torch.rand(COLUMNS // GROUP, OUTPUTS, device=device).half()
        int4 = Int4Weight(codes, group_scales, None, GROUP, COLUMNS)
        return _starting(work, lambda gpu: int4_matmul(gpu, x, int4, out))
    if kernel == "float_matmul":
        weight = torch.randn(OUTPUTS, COLUMNS, dtype=half, device=device)
        return _starting(work, lambda gpu: float_matmul(gpu, x, weight, out))
    dtype = torch.int8 if kernel == "int8_matmul" else torch.uint8
    multiply = int8_matmul if kernel == "int8_matmul" else float8_matmul
    codes, row_codes = (_codes((n, COLUMNS), dtype, device) for n in (OUTPUTS, rows))
    return _starting(work, lambda gpu: multiply(gpu, row_codes, facts, codes, scales, out))


def _starting(work: Workload, start: Callable[[Launcher], None]) -> Workload:
    return Workload(start, work.bytes, work.flops)


def _attention(shapes: str, device: torch.device) -> Workload:
    """A token of each of 32 requests behind 2048 others."""
    dim, half, blocks = int(shapes), torch.bfloat16, CONTEXT // BLOCK_TOKENS
    queries = torch.randn(REQUESTS, HEADS, dim, dtype=half, device=device)
    shape = (REQUESTS * blocks, BLOCK_TOKENS, KV_HEADS, dim)
    keys, values = (torch.randn(shape, dtype=half, device=device) for _ in range(2))
    starts = np.arange(REQUESTS + 1, dtype=np.int32)
    tables = torch.randperm(REQUESTS * blocks, device=device).int().view(REQUESTS, blocks)
    positions = torch.full((REQUESTS,), CONTEXT - 1, dtype=torch.int32, device=device)
    out, rules = torch.empty_like(queries), AttentionRules(dim**-0.5)

    def start(gpu: Launcher) -> None:
        tiles = query_tiles(starts, tokens_per_tile(gpu, HEADS, KV_HEADS, dim))
        step = AttentionInputs(
            positions, torch.from_numpy(starts).to(device), tables,
            torch.from_numpy(tiles).to(device), chunks=num_chunks(0, CONTEXT - 1),
        )  # fmt: skip
        attend(gpu, queries, CachedHeads(keys, values), step, rules, out)

    size = 2 * keys.numel() * 2 + 4 * queries.numel()
    return Workload(start, size, 4 * REQUESTS * CONTEXT * HEADS * dim)


def _add_segments(shapes: str, device: torch.device) -> Workload:
    sums = torch.randn(4, ROWS["few"], OUTPUTS, device=device)
    out = torch.empty(ROWS["few"], OUTPUTS, device=device)
    return Workload(
        lambda gpu: add_partial_sums(gpu, sums, out, None), 4 * (sums.numel() + out.numel()), 0
    )


def _sampling(shapes: str, device: torch.device) -> Workload:
    logits = torch.randn(SAMPLED, VOCABULARY, device=device) * 3
    ones = torch.ones(SAMPLED, device=device)
    whole = torch.full((SAMPLED,), 15 << 20, dtype=torch.int32, device=device)  # 0.94 of 2^24
    rows = SamplingRows(ones, 0 * ones, whole * 0, whole, whole // 2)
    out = torch.empty(SAMPLED, dtype=torch.int32, device=device)
    return Workload(lambda gpu: sample(gpu, logits, rows, out), 4 * logits.numel(), 0)


def _products_of(kernel: str) -> Callable[[str, torch.device], Workload]:
    return lambda shapes, device: _product(kernel, shapes, device)


MAKERS: dict[str, Callable[[str, torch.device], Workload]] = {
    "attention": _attention,
    "int4_matmul": _products_of("int4_matmul"),
    "int8_matmul": _products_of("int8_matmul"),
    "float8_matmul": _products_of("float8_matmul"),
    "float_matmul": _products_of("float_matmul"),
    "add_segments": _add_segments,
    "sampling": _sampling,
}
