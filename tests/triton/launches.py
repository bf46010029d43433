"""Starts every kernel as models do, compiles it for GPUs that are not there, and prints what came.

Run by test_ahead.py: python -m tests.triton.launches ARCHITECTURE, without TRITON_INTERPRET.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial

import torch

from quire.backends.torch.triton import (
    activation,
    attention,
    float8_matmul,
    float_matmul,
    int4_matmul,
    int8_matmul,
    norm,
    rope_kv_write,
    sampling,
)
from quire.backends.torch.triton.ahead import AheadLauncher
from quire.backends.torch.triton.tiles import TILES
from quire.ops.activation import GatedActivation


def empty(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    """A tensor without memory."""
    return torch.empty(shape, dtype=dtype, device="meta")


def attend(gpu: AheadLauncher, shapes: str) -> Iterator[str]:
    """Numbers and codes, grouped queries; a split one."""
    dim = int(shapes)
    queries = empty(64, 32, dim, dtype=torch.bfloat16)
    table = (empty(64), empty(65), empty(64, 512), empty(64, 2))
    for dtype in (torch.bfloat16, torch.int8):
        heads = empty(1000, 16, 8, dim, dtype=dtype)
        scales = None if dtype == torch.bfloat16 else empty(1000, 16, 8, dtype=torch.float32)
        cache = attention.CachedHeads(heads, heads, scales, scales)
        chunks = 8 if dtype == torch.bfloat16 and dim == 128 else 0
        step = attention.AttentionInputs(*table, chunks=chunks)
        rules = attention.AttentionRules(0.1)
        attention.attend(gpu, queries, cache, step, rules, queries)
        yield str(dtype)


def rows(gpu: AheadLauncher) -> Iterator[str]:
    """Kernels that take rows as they come: norms, rotations and stores, activations."""
    half, codes = torch.bfloat16, torch.int8
    x, weight = empty(64, 4096, dtype=half), empty(4096, dtype=half)
    rule, scales = norm.NormRule("rms", 1e-6, weight), empty(64, dtype=torch.float32)
    norm.norm(gpu, x, rule, x, residual=x, sum_out=x)
    norm.norm(gpu, x, rule, empty(64, 4096, dtype=codes), scales=scales)
    wide = empty(64, 16384, dtype=half)
    norm.norm(gpu, wide, norm.NormRule("layer", 1e-5), wide, residual=wide, sum_out=wide)
    heads = norm.NormRule("rms", 1e-6, empty(128, dtype=half), heads=32)
    norm.norm(gpu, x, heads, x)
    yield "norm"
    q, k, angles = x, empty(64, 1024, dtype=half), empty(64, 128, dtype=torch.float32)
    for dtype in (half, torch.uint8):
        numbers = empty(1000, 16, 8, 128, dtype=dtype)
        facts = None if dtype == half else empty(1000, 16, 8, dtype=torch.float32)
        cache = attention.CachedHeads(numbers, numbers, facts, facts)
        rope_kv_write.rotate_kv_write(gpu, q, k, k, angles, empty(64), cache, x)
    yield "rope"
    for kind in ("silu", "gelu", "gelu_tanh", "clamped_swiglu"):
        activation.gated_activation(gpu, GatedActivation(kind), x, x, x)
    yield "activation"


def multiply_int4(gpu: AheadLauncher, shapes: str) -> Iterator[str]:
    """Groups of 32 with zero points and of 128 without; a short matrix and a long one."""
    rows = {"few": 1, "some": 64, "many": 2048}[shapes]
    for dtype, group in ((torch.float16, 32), (torch.bfloat16, 128)):
        zeros = empty(4096 // group, 6144, dtype=torch.uint8) if group == 32 else None
        scales = empty(4096 // group, 6144, dtype=torch.float16)
        codes = empty(64, 6144, 32, dtype=torch.uint8)
        weight = int4_matmul.Int4Weight(codes, scales, zeros, group, 4096)
        x, out = empty(rows, 4096, dtype=dtype), empty(rows, 6144, dtype=dtype)
        int4_matmul.int4_matmul(gpu, x, weight, out)
        yield f"{dtype}, groups of {group}"


def multiply_codes(gpu: AheadLauncher, shapes: str, kernel: str) -> Iterator[str]:
    """int8 by int8; floats of 8 bits by such, in blocks and not, and by bfloat16."""
    rows, half = {"few": 1, "some": 64, "many": 2048}[shapes], torch.bfloat16
    out, scales = empty(rows, 6144, dtype=half), empty(6144, dtype=torch.float32)
    facts = empty(rows, dtype=torch.float32)
    if kernel == "int8_matmul":
        x, weight = empty(rows, 4096, dtype=torch.int8), empty(6144, 4096, dtype=torch.int8)
        int8_matmul.int8_matmul(gpu, x, facts, weight, scales, out)
        yield "int8"
        return
    x, weight = empty(rows, 4096, dtype=torch.uint8), empty(6144, 4096, dtype=torch.uint8)
    float8_matmul.float8_matmul(gpu, x, facts, weight, scales, out)
    yield "rows"
    blocks = empty(rows, 32, dtype=torch.float32), empty(48, 32, dtype=torch.float32)
    float8_matmul.float8_matmul(gpu, x, blocks[0], weight, blocks[1], out)
    yield "blocks"
    float8_matmul.float8_matmul(gpu, empty(rows, 4096, dtype=half), None, weight, scales, out)
    yield "bfloat16"


def multiply_floats(gpu: AheadLauncher, shapes: str) -> Iterator[str]:
    """All rows by one matrix; pairs by 64 experts."""
    rows, half = {"few": 1, "some": 64, "many": 2048}[shapes], torch.bfloat16
    x, out = empty(rows, 4096, dtype=half), empty(rows, 6144, dtype=half)
    float_matmul.float_matmul(gpu, x, empty(6144, 4096, dtype=half), out)
    yield "dense"
    stack, pairs = empty(64, 1024, 4096, dtype=half), empty(4 * rows)
    groups = float_matmul.ExpertTiles(pairs, empty(9, 3), shapes)
    factors, out = empty(4 * rows, dtype=torch.float32), empty(4 * rows, 1024, dtype=half)
    float_matmul.expert_matmul(gpu, x, stack, groups, out, in_rows=pairs, factors=factors)
    yield "experts"


def add_segments(gpu: AheadLauncher, shapes: str) -> Iterator[str]:
    """Sums of two segments."""
    sums, out = empty(2, 8, 6144, dtype=torch.float32), empty(8, 6144, dtype=torch.bfloat16)
    int4_matmul.add_partial_sums(gpu, sums, out, None)
    yield ""


def sample(gpu: AheadLauncher, shapes: str) -> Iterator[str]:
    """A vocabulary of 151,936 tokens."""
    rows, numbers = empty(64), empty(64, dtype=torch.float32)
    logits, ids = empty(64, 151936, dtype=torch.float32), empty(64, 21)
    sampling.count_tokens(gpu, empty(8, 4096), rows, empty(8, 151936))
    penalties = sampling.Penalties(empty(8, 151936), rows, numbers, numbers, numbers)
    sampling.adjust_logits(gpu, logits, empty(8, 4748), rows, penalties)
    sampling.sample(gpu, logits, sampling.SamplingRows(numbers, numbers, rows, rows, rows), rows)
    values = empty(64, 21, dtype=torch.float32)
    sampling.log_probabilities(gpu, logits, rows, ids, values, rows)
    yield ""


TILED: dict[str, Callable[[AheadLauncher, str], Iterator[str]]] = {
    "attention": attend,
    "int4_matmul": multiply_int4,
    "add_segments": add_segments,
    "float_matmul": multiply_floats,
    "int8_matmul": partial(multiply_codes, kernel="int8_matmul"),
    "float8_matmul": partial(multiply_codes, kernel="float8_matmul"),
    "sampling": sample,
}
"""Those with tiles in the table, by their names there."""


def main(architecture: str) -> None:
    """One JSON line for each compiled kernel."""
    for kernel, shapes in TILES[architecture]:
        show(kernel, shapes, AheadLauncher(architecture), TILED[kernel])
    show("rows", "", AheadLauncher(architecture), lambda gpu, _: rows(gpu))


def show(
    body: str,
    shapes: str,
    gpu: AheadLauncher,
    launches: Callable[[AheadLauncher, str], Iterator[str]],
) -> None:
    """Print what each launch compiled."""
    for what in launches(gpu, shapes):
        for each in gpu.compiled:
            facts = {**asdict(each), "products": sorted(each.products)}
            print(json.dumps({"body": body, "shapes": shapes, "what": what, **facts}))
        gpu.compiled.clear()


if __name__ == "__main__":
    main(sys.argv[1])
