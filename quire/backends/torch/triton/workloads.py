"""What the tuner and the benchmark start of each kernel: shapes of an 8 B model, random numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from quire.backends.torch.matrix import STEP, CodedMatrix
from quire.backends.torch.triton.attention import (
    AttentionInputs,
    AttentionRules,
    CachedHeads,
    attend,
    num_chunks,
    query_tiles,
    tokens_per_tile,
)
from quire.backends.torch.triton.code_matmul import add_partial_sums, code_matmul
from quire.backends.torch.triton.draw import DrawRules, draw_tokens
from quire.backends.torch.triton.float_matmul import float_matmul
from quire.backends.torch.triton.latent_attention import CachedRows, attend_latents, key_chunk
from quire.backends.torch.triton.launcher import Launcher

__all__ = ["Workload", "workload"]

ROWS = {"few": 8, "some": 64, "many": 2048}
OUTPUTS, COLUMNS, GROUP = 6144, 4096, 128
REQUESTS, CONTEXT, BLOCK_TOKENS, HEADS, KV_HEADS = 32, 2048, 16, 32, 8
RANK, ROTATED = 512, 64
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


def _products_of_floats(shapes: str, device: torch.device) -> Workload:
    weight = torch.randn(OUTPUTS, COLUMNS, dtype=torch.bfloat16, device=device)
    x, out = _rows(shapes, device)
    start = lambda gpu: float_matmul(gpu, x, weight, out)  # noqa: E731
    return Workload(start, _moved(len(x), 2.0), 2 * len(x) * OUTPUTS * COLUMNS)


def _products_of_codes(shapes: str, device: torch.device) -> Workload:
    """Codes of 4 bits."""
    codes = torch.randint(0, 256, (COLUMNS // STEP, OUTPUTS, STEP // 2), dtype=torch.uint8)
    scales = torch.rand(COLUMNS // GROUP, OUTPUTS, dtype=torch.float16)
    weight = CodedMatrix(
        (OUTPUTS, COLUMNS), GROUP, "integer", codes.to(device), scales.to(device).T, None, 8, None,
        None, 1.0, None, torch.bfloat16,
    )  # fmt: skip
    x, out = _rows(shapes, device)
    start = lambda gpu: code_matmul(gpu, x, weight, out)  # noqa: E731
    return Workload(start, _moved(len(x), 0.5 + 2 / GROUP), 2 * len(x) * OUTPUTS * COLUMNS)


def _rows(shapes: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(ROWS[shapes], COLUMNS, dtype=torch.bfloat16, device=device)
    return x, torch.empty(ROWS[shapes], OUTPUTS, dtype=torch.bfloat16, device=device)


def _moved(rows: int, bytes_of_weight: float) -> int:
    return int(OUTPUTS * COLUMNS * bytes_of_weight) + 2 * rows * (COLUMNS + OUTPUTS)


def _attention(shapes: str, device: torch.device) -> Workload:
    """A token of each of 32 requests behind 2048 others."""
    size, _, format = shapes.partition(", ")
    dim, half, blocks = int(size), torch.bfloat16, CONTEXT // BLOCK_TOKENS
    queries = torch.randn(REQUESTS, HEADS, dim, dtype=half, device=device)
    shape = (REQUESTS * blocks, BLOCK_TOKENS, KV_HEADS)
    if format == "int4":
        codes = torch.zeros(*shape, dim // 2, dtype=torch.uint8, device=device)
        cache = CachedHeads(codes, codes.clone(), *torch.rand(4, *shape, device=device))
    else:
        cache = CachedHeads(*torch.randn(2, *shape, dim, dtype=half, device=device))
    starts = np.arange(REQUESTS + 1, dtype=np.int32)
    tables = torch.randperm(REQUESTS * blocks, device=device).int().view(REQUESTS, blocks)
    positions = torch.full((REQUESTS,), CONTEXT - 1, dtype=torch.int32, device=device)
    out, rules = torch.empty_like(queries), AttentionRules(dim**-0.5)

    def start(gpu: Launcher) -> None:
        tiles = query_tiles(starts, tokens_per_tile(gpu, HEADS, KV_HEADS, dim, bool(format)))
        step = AttentionInputs(
            positions, torch.from_numpy(starts).to(device), tables,
            torch.from_numpy(tiles).to(device), chunks=num_chunks(0, CONTEXT - 1),
        )  # fmt: skip
        attend(gpu, queries, cache, step, rules, out)

    moved = 2 * cache.keys.nbytes + 4 * queries.numel()
    return Workload(start, moved, 4 * REQUESTS * CONTEXT * HEADS * dim)


def _latent_attention(shapes: str, device: torch.device) -> Workload:
    """A token of each of 32 requests behind 2048 others, with 32 heads."""
    blocks, width = CONTEXT // BLOCK_TOKENS, RANK + ROTATED
    dtype = torch.float32 if shapes else torch.bfloat16
    shape = (REQUESTS * blocks, BLOCK_TOKENS, width)
    cache = CachedRows(torch.randn(shape, dtype=dtype, device=device), RANK)
    queries = torch.randn(REQUESTS, HEADS * width, dtype=dtype, device=device)
    out = torch.empty(REQUESTS, HEADS * RANK, device=device)
    starts = np.arange(REQUESTS + 1, dtype=np.int32)
    tables = torch.randperm(REQUESTS * blocks, device=device).int().view(REQUESTS, blocks)
    positions = torch.full((REQUESTS,), CONTEXT - 1, dtype=torch.int32, device=device)
    step = AttentionInputs(
        positions, torch.from_numpy(starts).to(device), tables,
        torch.from_numpy(query_tiles(starts, 1)).to(device),
        chunks=num_chunks(0, CONTEXT - 1, key_chunk(HEADS)),
    )  # fmt: skip
    flops = 2 * REQUESTS * CONTEXT * HEADS * (RANK + width)
    return Workload(
        lambda gpu: attend_latents(gpu, queries, cache, step, HEADS, RANK**-0.5, out),
        cache.rows.nbytes + queries.nbytes + out.nbytes,
        flops,
    )


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
    rows = DrawRules(ones, 0 * ones, whole * 0, whole, whole // 2)
    out = torch.empty(SAMPLED, dtype=torch.int32, device=device)
    return Workload(lambda gpu: draw_tokens(gpu, logits, rows, out), 4 * logits.numel(), 0)


MAKERS: dict[str, Callable[[str, torch.device], Workload]] = {
    "attention": _attention,
    "latent_attention": _latent_attention,
    "code_matmul": _products_of_codes,
    "float_matmul": _products_of_floats,
    "add_segments": _add_segments,
    "sampling": _sampling,
}
