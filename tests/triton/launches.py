"""Starts every kernel as models do, compiles it for GPUs that are not there, and prints what came.

Run by test_ahead.py: python -m tests.triton.launches ARCHITECTURE, without TRITON_INTERPRET.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict

import torch

from quire.backends.torch.triton import attention
from quire.backends.torch.triton.ahead import AheadLauncher
from quire.backends.torch.triton.tiles import TILES


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


LAUNCHES: dict[str, Callable[[AheadLauncher, str], Iterator[str]]] = {"attention": attend}


def main(architecture: str) -> None:
    """One JSON line for each compiled kernel."""
    for kernel, shapes in TILES[architecture]:
        gpu = AheadLauncher(architecture)
        for what in LAUNCHES[kernel](gpu, shapes):
            for each in gpu.compiled:
                facts = {**asdict(each), "products": sorted(each.products)}
                print(json.dumps({"body": kernel, "shapes": shapes, "what": what, **facts}))
            gpu.compiled.clear()


if __name__ == "__main__":
    main(sys.argv[1])
