"""Whether kernels are right on a device, with inputs nobody has seen before, of a model's size.

A check gives the largest error as a share of what is allowed, or infinity where two results that
must have the same bits do not.  The device computes what is compared with, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from bench.gpu.layer_checks import delta_rule, latents, worst_share
from quire.backends.torch.matrix import CodedMatrix, as_matrix
from quire.backends.torch.triton.attention import (
    AttentionInputs,
    AttentionRules,
    CachedHeads,
    attend,
    num_chunks,
    query_tiles,
    tokens_per_tile,
)
from quire.backends.torch.triton.code_matmul import code_matmul
from quire.backends.torch.triton.draw import DrawRules, draw_tokens
from quire.backends.torch.triton.float_matmul import float_matmul
from quire.backends.torch.triton.launcher import Launcher
from quire.ops.number_formats import E4M3
from quire.quant.matrix import QuantizedMatrix
from quire.quant.packing import pack_matrix

__all__ = ["CHECKS"]

OUTPUTS, COLUMNS, ROWS, GROUP = 1000, 4160, 300, 32
LENGTHS = ((700, 1), (0, 333), (255, 2), (90, 40))  # known and new tokens of each request
HEADS, KV_HEADS, DIM, BLOCK_TOKENS = 28, 4, 128, 16
SAMPLED, VOCABULARY = 16, 151936


def _products(
    multiply: Callable[[torch.Tensor, torch.Tensor], None],
    x: torch.Tensor,
    wide_x: torch.Tensor,
    weight: torch.Tensor,
    step: float,
) -> float:
    """Of all rows, and of some of them alone."""
    out = torch.empty(len(x), len(weight), device=x.device)
    multiply(x, out)
    exact, sizes = wide_x @ weight.T, wide_x.abs() @ weight.abs().T
    for rows in (slice(0, 1), slice(40, 100), slice(len(x) - 7, len(x))):
        alone = torch.empty(rows.stop - rows.start, len(weight), device=x.device)
        multiply(x[rows], alone)
        if not torch.equal(alone, out[rows]):
            return math.inf
    return worst_share(out, exact, step * sizes + 1e-6)


def floats(gpu: Launcher, device: torch.device) -> float:
    """bfloat16 by bfloat16."""
    x = torch.randn(ROWS, COLUMNS, dtype=torch.bfloat16, device=device)
    weight = torch.randn(OUTPUTS, COLUMNS, dtype=torch.bfloat16, device=device)
    return _products(
        lambda x, out: float_matmul(gpu, x, weight, out), x, x.double(), weight.double(), 2**-19
    )


def int4(gpu: Launcher, device: torch.device) -> float:
    """float16 by groups of 4-bit codes with zero points."""
    zeros = torch.randint(0, 16, (OUTPUTS, COLUMNS // GROUP), dtype=torch.uint8).numpy()
    return _codes(gpu, device, torch.float16, 4, zeros, None)


def float8(gpu: Launcher, device: torch.device) -> float:
    """bfloat16 by floats of 8 bits."""
    return _codes(gpu, device, torch.bfloat16, 8, None, E4M3)


def _codes(
    gpu: Launcher,
    device: torch.device,
    dtype: torch.dtype,
    bits: int,
    zeros: np.ndarray | None,
    table: np.ndarray | None,
) -> float:
    """Rows by codes, compared with the numbers that torch widens them to."""
    codes = torch.randint(0, 16 if bits == 4 else 0x78, (OUTPUTS, COLUMNS), dtype=torch.uint8)
    scales = (torch.rand(OUTPUTS, COLUMNS // GROUP) / 64).half().float().numpy()
    packed = pack_matrix(
        QuantizedMatrix("w", bits, GROUP, codes.numpy(), scales, zeros, None, table)
    )
    assert packed is not None
    weight = as_matrix(packed, dtype, device)
    assert isinstance(weight, CodedMatrix)
    wide = weight.widened(slice(None)).to(dtype).double()
    x = torch.randn(ROWS, COLUMNS, device=device).to(dtype)
    multiply = lambda x, out: code_matmul(gpu, x, weight, out)  # noqa: E731
    return _products(multiply, x, x.double(), wide, 2**-19)


def attention(gpu: Launcher, device: torch.device) -> float:
    """Prompts and tokens together; each request alone, and keys shared by programs or not."""
    needed = [-(-(known + new) // BLOCK_TOKENS) for known, new in LENGTHS]
    shape = (sum(needed), BLOCK_TOKENS, KV_HEADS, DIM)
    keys, values = (torch.randn(shape, dtype=torch.bfloat16, device=device) for _ in range(2))
    order = torch.randperm(sum(needed), device=device).int()
    tables = torch.zeros(len(LENGTHS), max(needed), dtype=torch.int32, device=device)
    for row, blocks in enumerate(order.split(needed)):
        tables[row, : len(blocks)] = blocks
    counts = [new for _, new in LENGTHS]
    queries = torch.randn(sum(counts), HEADS, DIM, dtype=torch.bfloat16, device=device)

    def run(requests: list[int], queries: torch.Tensor, split: bool) -> torch.Tensor:
        spans = [LENGTHS[request] for request in requests]
        starts = np.cumsum([0, *(new for _, new in spans)]).astype(np.int32)
        positions = torch.cat([torch.arange(k, k + n) for k, n in spans]).int().to(device)
        tiles = query_tiles(starts, tokens_per_tile(gpu, HEADS, KV_HEADS, DIM))
        longest = max(known + new for known, new in spans)
        step = AttentionInputs(
            positions, torch.from_numpy(starts).to(device), tables[requests].contiguous(),
            torch.from_numpy(tiles).to(device),
            chunks=num_chunks(0, longest - 1) if split else 0,
        )  # fmt: skip
        out = torch.empty(queries.shape, device=device)
        attend(gpu, queries, CachedHeads(keys, values), step, AttentionRules(DIM**-0.5), out)
        return out

    everyone = list(range(len(LENGTHS)))
    out = run(everyone, queries, False)
    if not torch.equal(out, run(everyone, queries, True)):
        return math.inf
    worst = 0.0
    for request, mine in enumerate(out.split(counts)):
        known, new = LENGTHS[request]
        own = queries.split(counts)[request]
        if not torch.equal(mine, run([request], own, request % 2 == 0)):
            return math.inf
        blocks = order.split(needed)[request].long()
        seen = slice(0, known + new)
        k, v = (each[blocks].flatten(0, 1)[seen].double() for each in (keys, values))
        k, v = (each.repeat_interleave(HEADS // KV_HEADS, 1) for each in (k, v))
        scores = torch.einsum("thd,nhd->htn", own.double(), k) * DIM**-0.5
        is_later = torch.ones(new, known + new, dtype=torch.bool, device=device).triu(known + 1)
        weights = scores.masked_fill(is_later, -math.inf).softmax(-1)
        exact = torch.einsum("htn,nhd->thd", weights, v)
        worst = max(worst, worst_share(mine, exact, 2**-7))
    return worst


def sampling(gpu: Launcher, device: torch.device) -> float:
    """No draw of top-k 20 has 20 tokens before it; rows alone draw the same."""
    logits = torch.randn(SAMPLED, VOCABULARY, device=device) * 4

    def draw(logits: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        ones = torch.ones(len(logits), device=device)
        count = torch.full((len(logits),), 20, dtype=torch.int32, device=device)
        share = torch.full((len(logits),), 1 << 24, dtype=torch.int32, device=device)
        out = torch.empty(len(logits), dtype=torch.int32, device=device)
        draw_tokens(gpu, logits, DrawRules(ones, 0 * ones, count, share, draws), out)
        return out

    draws = torch.randint(0, 1 << 24, (SAMPLED,), dtype=torch.int32, device=device)
    tokens = draw(logits, draws)
    alone = torch.cat([draw(logits[i : i + 1], draws[i : i + 1]) for i in range(SAMPLED)])
    before = (logits > logits.gather(1, tokens.long()[:, None])).sum(1)
    if not torch.equal(tokens, alone):
        return math.inf
    return float(before.max()) / 19


CHECKS: dict[str, Callable[[Launcher, torch.device], float]] = {
    "attention": attention,
    "float_matmul": floats,
    "code_matmul, int4": int4,
    "code_matmul, float8": float8,
    "latent_attention": latents,
    "delta_rule": delta_rule,
    "sampling": sampling,
}
