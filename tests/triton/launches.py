"""Starts every kernel as models do, compiles it for GPUs that are not there, and prints what came.

Run by test_ahead.py: python -m tests.triton.launches ARCHITECTURE, without TRITON_INTERPRET.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import torch

from quire.backends.torch.matrix import CodedMatrix
from quire.backends.torch.sampling.changes import Changes
from quire.backends.torch.triton import (
    activation,
    attention,
    code_matmul,
    draw,
    expert_tiles,
    float_matmul,
    head_matmul,
    latent_attention,
    latent_rows,
    logit_changes,
    logprobs,
    norm,
    recurrence,
    rope_kv_write,
    short_convolution,
)
from quire.backends.torch.triton.ahead import AheadLauncher, specialised
from quire.backends.torch.triton.launcher import Launcher
from quire.backends.torch.triton.tiles import TILES, Tile
from quire.ops.activation import GatedActivation


def empty(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    """A tensor without memory."""
    return torch.empty(shape, dtype=dtype, device="meta")


def attend(gpu: AheadLauncher, shapes: str) -> Iterator[str]:
    """Numbers and codes, grouped queries; whole, and in chunks that programs share."""
    size, _, format = shapes.partition(", ")
    dim = int(size)
    queries = empty(64, 32, dim, dtype=torch.bfloat16)
    table = (empty(64), empty(65), empty(64, 512), empty(64, 2))
    dtypes = {"numbers": torch.bfloat16, "int8": torch.int8}
    for what, dtype in ({"int4": torch.uint8} if format else dtypes).items():
        heads = empty(1000, 16, 8, dim // 2 if what == "int4" else dim, dtype=dtype)
        scales = None if what == "numbers" else empty(1000, 16, 8, dtype=torch.float32)
        minimums = scales if what == "int4" else None
        cache = attention.CachedHeads(heads, heads, scales, scales, minimums, minimums)
        rules = attention.AttentionRules(0.1)
        # Shared chunks of numbers take fewer registers than whole walks, in every tile.
        for chunks in (0, 50) if what != "numbers" or dim == 128 else (0,):
            step = attention.AttentionInputs(*table, chunks=chunks, programs=8)
            attention.attend(gpu, queries, cache, step, rules, queries)
        yield what


def attend_latents(gpu: AheadLauncher, shapes: str) -> Iterator[str]:
    """Numbers and codes, of 128 heads; a split one."""
    kinds = {"numbers": torch.bfloat16, "int8": torch.int8}
    for what, dtype in ({"float32": torch.float32} if shapes else kinds).items():
        scales = empty(1000, 2, 16, dtype=torch.float32) if what == "int8" else None
        cache = latent_attention.CachedRows(empty(1000, 16, 576, dtype=dtype), 512, scales)
        queries = empty(64, 128 * 576, dtype=torch.float32 if shapes else torch.bfloat16)
        out = empty(64, 128 * 512, dtype=torch.float32)
        for chunks in (0, 8) if what == "numbers" else (0,):
            table = (empty(64), empty(65), empty(64, 512), empty(64, 2))
            step = attention.AttentionInputs(*table, chunks=chunks, programs=4)
            latent_attention.attend_latents(gpu, queries, cache, step, 128, 0.1, out)
        if scales is not None:
            write_latents(gpu, cache, out)
        yield what


def write_latents(gpu: AheadLauncher, cache: latent_attention.CachedRows, x: torch.Tensor) -> None:
    """Codes; rotated queries."""
    angles, heads = empty(64, 64, dtype=torch.float32), x.unflatten(1, (128, -1))
    latent_rows.write_latents(gpu, x[:, :512], x[:, :64], angles, empty(64), cache)
    latent_rows.rotate_heads(gpu, heads[..., 448:], angles, heads[..., 448:])


def recur(gpu: AheadLauncher) -> Iterator[str]:
    """Qwen3-Next's delta rule and Granite's Mamba, with their convolutions."""
    wide, one = torch.float32, empty(32, dtype=torch.float32)
    step = short_convolution.RecurrentStep(
        empty(64, 10**6, dtype=wide), 64, empty(512), empty(65), empty(64, 4)
    )
    x, gate, out = (empty(512, width, dtype=wide) for width in (8192, 32, 4096))
    short_convolution.convolve(gpu, x, empty(8192, 4, dtype=wide), None, step, x)
    yield "convolution"
    heads = recurrence.Heads(16, 32, 128, 128, one, one)
    recurrence.follow_delta_rule(gpu, x, gate, gate, heads, step, out)
    yield "delta rule"
    heads = recurrence.Heads(1, 128, 256, 64, one, one)
    recurrence.follow_scan(gpu, x, gate, one, (0.0, math.inf), heads, step, x)
    yield "scan"


def rows(gpu: AheadLauncher) -> Iterator[str]:
    """Kernels that take rows as they come: norms, rotations and stores, activations."""
    half = torch.bfloat16
    x, weight = empty(64, 4096, dtype=half), empty(4096, dtype=half)
    norm.norm(gpu, x, norm.NormRule("rms", 1e-6, weight), x, residual=x, sum_out=x)
    wide = empty(64, 16384, dtype=half)
    norm.norm(gpu, wide, norm.NormRule("layer", 1e-5), wide, residual=wide, sum_out=wide)
    heads = norm.NormRule("rms", 1e-6, empty(128, dtype=half), heads=32)
    norm.norm(gpu, x, heads, x)
    yield "norm"
    q, k, angles = x, empty(64, 1024, dtype=half), empty(64, 128, dtype=torch.float32)
    for dim, facts in ((128, 0), (128, 1), (64, 2)):
        numbers = empty(1000, 16, 8, dim, dtype=torch.uint8 if facts else half)
        scales, minimums = (
            empty(1000, 16, 8, dtype=torch.float32) if facts > each else None for each in (0, 1)
        )
        cache = attention.CachedHeads(numbers, numbers, scales, scales, minimums, minimums)
        rope_kv_write.rotate_kv_write(gpu, q, k, k, angles, empty(64), cache, x)
    yield "rope"
    for kind in ("silu", "gelu", "gelu_tanh", "clamped_swiglu"):
        activation.gated_activation(gpu, GatedActivation(kind), x, x, x)
    yield "activation"


KINDS: dict[str, tuple[int, int, torch.dtype, torch.dtype]] = {
    "zeros": (4, 32, torch.float16, torch.float16),
    "integers": (4, 128, torch.float16, torch.bfloat16),
    "minimums": (8, 32, torch.float16, torch.bfloat16),
    "e2m1": (4, 16, torch.float16, torch.bfloat16),
    "table": (4, 64, torch.float16, torch.bfloat16),
    "e4m3": (8, 128, torch.float32, torch.bfloat16),
}
"""Bits, columns of a group, dtypes of scales and of the product."""


def coded(what: str, outputs: int = 6144) -> CodedMatrix:
    """A matrix of 4096 columns without memory."""
    bits, group, scale_type, dtype = KINDS[what]
    facts = empty(4096 // group, outputs, dtype=scale_type).T
    zeros = empty(4096 // group, outputs, dtype=torch.uint8).T if what == "zeros" else None
    kind = what if what in ("e2m1", "table", "e4m3") else "integer"
    table = empty(16, dtype=torch.float32) if kind in ("e2m1", "table") else None
    codes = empty(64, outputs, 8 * bits, dtype=torch.uint8)
    return CodedMatrix(
        (outputs, 4096), group, kind, codes, facts, zeros, 8 if what == "integers" else 0,
        facts if what == "minimums" else None, table, 1.0, None, dtype,
    )  # type: ignore[arg-type]  # fmt: skip


def multiply_codes(gpu: AheadLauncher, shapes: str) -> Iterator[str]:
    """Each kind, of which few rows share programs; pairs by 64 experts."""
    rows = {"few": 1, "some": 64, "many": 2048}[shapes]
    kinds = {"few": tuple(KINDS), "some": ("integers",), "many": ("integers", "e4m3")}
    for what in kinds[shapes]:
        weight = coded(what)
        x, out = empty(rows, 4096, dtype=weight.dtype), empty(rows, 6144, dtype=weight.dtype)
        code_matmul.code_matmul(gpu, x, weight, out)
        yield what
    weight, x = coded("e2m1", 1024), empty(rows, 4096, dtype=torch.bfloat16)
    code_matmul.expert_code_matmul(
        gpu, x, weight, groups_of(shapes, rows, 4), empty(4 * rows, 1024, dtype=torch.float32)
    )
    yield "experts"


def groups_of(shapes: str, rows: int, kinds: int) -> expert_tiles.ExpertRows:
    """Pairs of rows, each with 4 of 64 experts."""
    pairs = empty(4 * rows)
    tiles = expert_tiles.ExpertTiles(pairs, empty(9, 3), shapes)
    factors = empty(4 * rows, dtype=torch.float32)
    return expert_tiles.ExpertRows(tiles, empty(kinds, 64, dtype=torch.int64), pairs, None, factors)


def multiply_floats(gpu: AheadLauncher, shapes: str) -> Iterator[str]:
    """All rows by one matrix; pairs by 64 experts."""
    rows, half = {"few": 1, "some": 64, "many": 2048}[shapes], torch.bfloat16
    x, out = empty(rows, 4096, dtype=half), empty(rows, 6144, dtype=half)
    float_matmul.float_matmul(gpu, x, empty(6144, 4096, dtype=half), out)
    yield "dense"
    if shapes == "many":  # whose tile is the largest
        x, out = empty(rows, 4096, dtype=torch.float32), empty(rows, 6144, dtype=torch.float32)
        float_matmul.float_matmul(gpu, x, empty(6144, 4096, dtype=torch.float32), out)
        yield "dense float32"
        x, out = x.to(half), out.to(half)
    if shapes != "some":
        queries, matrices = empty(rows, 128, 192, dtype=half), empty(128, 256, 512, dtype=half)
        latents = empty(rows, 128, 576, dtype=half)[..., :512]
        head_matmul.head_matmul(gpu, queries[..., :128], matrices[:, :128].mT, latents)
        yield "heads"
    weight, out = empty(1024, 4096, dtype=half), empty(4 * rows, 1024, dtype=half)
    float_matmul.expert_matmul(gpu, x, weight, groups_of(shapes, rows, 2), out)
    yield "experts"


def add_segments(gpu: AheadLauncher, shapes: str) -> Iterator[str]:
    """Sums of two segments."""
    sums, out = empty(2, 8, 6144, dtype=torch.float32), empty(8, 6144, dtype=torch.bfloat16)
    code_matmul.add_partial_sums(gpu, sums, out, None)
    yield ""


def sample(gpu: AheadLauncher, shapes: str) -> Iterator[str]:
    """A vocabulary of 151,936 tokens."""
    rows, numbers = empty(64), empty(64, dtype=torch.float32)
    logits, ids = empty(64, 151936, dtype=torch.float32), empty(64, 21)
    logit_changes.count_tokens(gpu, empty(8, 151936), rows, empty(64, 4096), rows)
    changes = Changes(empty(6, 64), empty(8, 4748), None, empty(8, 151936))
    logit_changes.adjust_logits(gpu, logits, changes, torch.empty_like(logits))
    draw.draw_tokens(gpu, logits, draw.DrawRules(numbers, numbers, rows, rows, rows), rows)
    values = empty(64, 21, dtype=torch.float32)
    logprobs.log_probabilities(gpu, logits, rows, rows, ids, values, rows)
    yield ""


TILED: dict[str, Callable[[AheadLauncher, str], Iterator[str]]] = {
    "attention": attend,
    "code_matmul": multiply_codes,
    "add_segments": add_segments,
    "float_matmul": multiply_floats,
    "latent_attention": attend_latents,
    "sampling": sample,
}
"""Those with tiles in the table, by their names there."""


class Noting(Launcher):
    """Notes what kernels would be compiled for, and compiles nothing."""

    def __init__(self, architecture: str) -> None:
        super().__init__(architecture)
        object.__setattr__(self, "variants", {})

    def run(self, kernel: Any, grid: tuple[int, ...], tile: Tile, /, **arguments: Any) -> None:
        found = self.variants.setdefault(kernel.__name__, set())  # type: ignore[attr-defined]
        found.add(repr(specialised(kernel, arguments)))


def variants(architecture: str) -> dict[str, int]:
    """Kernel → how often it is compiled for steps of 1, 7 and 16 tokens with few or many keys."""
    gpu, others, half = Noting(architecture), Noting(architecture), torch.bfloat16
    heads, rules = empty(1000, 16, 8, 128, dtype=half), attention.AttentionRules(0.1)
    cache = attention.CachedHeads(heads, heads)
    for rows, chunks in ((1, 3), (7, 16), (16, 50)):
        x, weight, out = (
            empty(*shape, dtype=half) for shape in ((rows, 4096), (1024, 4096), (rows, 1024))
        )
        float_matmul.float_matmul(gpu, x, weight, out)
        code_matmul.code_matmul(gpu, x, coded("integers", 1024), out)
        norm.norm(gpu, x, norm.NormRule("rms", 1e-6, empty(4096, dtype=half)), x)
        q = empty(rows, 32, 128, dtype=half)
        table = (empty(rows), empty(rows + 1), empty(rows, chunks), empty(rows, 2))
        step = attention.AttentionInputs(*table, chunks=chunks, programs=8)
        attention.attend(gpu, q, cache, step, rules, q)
        latents, x = empty(rows, 32 * 576, dtype=half), empty(rows, 8192, dtype=torch.float32)
        cached = latent_attention.CachedRows(empty(1000, 16, 576, dtype=half), 512)
        latent_attention.attend_latents(others, latents, cached, step, 32, 0.1, latents)
        head_matmul.head_matmul(others, q, empty(32, 64, 128, dtype=half), q[..., :64])
        records, requests = empty(9, 10**6, dtype=torch.float32), empty(rows, 4)
        known = short_convolution.RecurrentStep(records, 64, empty(rows), empty(rows + 1), requests)
        short_convolution.convolve(others, x, empty(8192, 4, dtype=torch.float32), None, known, x)
    found: dict[str, int] = {}
    for launcher in (gpu, others):  # each for one model
        for name, kinds in launcher.variants.items():  # type: ignore[attr-defined]
            found[name] = max(found.get(name, 0), len(kinds))
    return found


def main(architecture: str) -> None:
    """One JSON line for each compiled kernel; and how often each is compiled."""
    print(json.dumps({"variants": variants(architecture)}))
    for kernel, shapes in TILES[architecture]:
        show(kernel, shapes, AheadLauncher(architecture), TILED[kernel])
    show("rows", "", AheadLauncher(architecture), lambda gpu, _: rows(gpu))
    show("recurrent", "", AheadLauncher(architecture), lambda gpu, _: recur(gpu))


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
