"""Rotated queries, and keys and values in the cache, are those of the reference op."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quire.backends.torch.kv_codes import from_codes
from quire.backends.torch.triton.attention import CachedHeads
from quire.backends.torch.triton.launcher import Launcher
from quire.backends.torch.triton.rope_kv_write import rotate_kv_write
from quire.ops.batch import Batch
from quire.ops.kv_cache import KvCache, KvLayerShape, KvLayout
from quire.ops.op import Environment
from quire.ops.rope import KvWrite, RopeAngles, Rotate, RotateKvWrite

BLOCK_TOKENS, BLOCKS = 16, 4
DTYPES = {
    "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16,
    "int8": torch.int8, "fp8": torch.uint8, "int4": torch.uint8,
}  # fmt: skip


def batch(frequencies: np.ndarray) -> Batch:
    """Two requests: positions 14 .. 17 and 3; their blocks stand in any order."""
    return Batch(
        np.zeros(5, np.int32),
        np.array([14, 15, 16, 17, 3], np.int32),
        np.zeros(5, np.int32),
        np.array([0, 4, 5], np.int32),
        np.array([[3, 1], [2, 0]], np.int32),
        np.zeros(0, np.int32),
        (frequencies,),
    )


def cells(step: Batch) -> np.ndarray:
    blocks = step.block_tables[step.request_of_token(), step.positions // BLOCK_TOKENS]
    return (blocks * BLOCK_TOKENS + step.positions % BLOCK_TOKENS).astype(np.int32)


def cached(format: str, kv_heads: int, dim: int) -> CachedHeads:
    shape, width = (BLOCKS, BLOCK_TOKENS, kv_heads), dim // 2 if format == "int4" else dim
    keys, values = (torch.zeros(*shape, width, dtype=DTYPES[format]) for _ in range(2))
    facts = {"int8": 2, "fp8": 2, "int4": 4}.get(format, 0)
    return CachedHeads(keys, values, *(torch.zeros(shape) for _ in range(facts)))


def numbers_of(
    codes: torch.Tensor, scales: torch.Tensor | None, minimums: torch.Tensor | None
) -> np.ndarray:
    if scales is None:
        return codes.float().numpy()
    facts = torch.stack([scales] if minimums is None else [scales, minimums])
    format = "int4" if minimums is not None else "fp8" if codes.dtype == torch.uint8 else "int8"
    width = codes.shape[-1] * (2 if format == "int4" else 1)
    return from_codes(codes.view(torch.uint8), facts, format, width).numpy()


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
@pytest.mark.parametrize("format", DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "dim", "dims"), [(4, 2, 64, 64), (3, 1, 80, 32)])
def test_is_the_reference(
    gpu: Launcher, heads: int, kv_heads: int, dim: int, dims: int, format: str, pairing: str
) -> None:
    rng = np.random.default_rng(0)
    step = batch(rng.random((1, dims // 2 + 1)).astype(np.float32))
    qkv = rng.standard_normal((5, (heads + 2 * kv_heads) * dim)).astype(np.float32)
    qkv[1, -dim:] = 0  # a value without a largest number
    qkv[2, -1] = np.nan
    qkv[3] *= 1e4
    q, k, v = np.split(qkv, [heads * dim, (heads + kv_heads) * dim], axis=1)
    layout = KvLayout((KvLayerShape(kv_heads, dim),), BLOCK_TOKENS, format)
    cache = KvCache(layout, BLOCKS)
    env = Environment(step, cache, {})
    (angles,) = RopeAngles(0, dims).reference(env)
    op = RotateKvWrite(
        Rotate(heads, dims, pairing), Rotate(kv_heads, dims, pairing), KvWrite(0, kv_heads)
    )
    (expected,) = op.reference(env, q, k, v, angles)

    together, found = torch.from_numpy(qkv), cached(format, kv_heads, dim)
    parts = together.split([heads * dim, kv_heads * dim, kv_heads * dim], dim=1)
    out = torch.empty(5, heads * dim)
    rotate_kv_write(
        gpu, *parts, torch.from_numpy(angles), torch.from_numpy(cells(step)), found, out,
        is_interleaved=pairing == "interleaved",
    )  # fmt: skip
    assert np.array_equal(out.numpy(), expected)
    if found.value_scales is not None:
        assert not found.values[1, 0, -1].any()  # the codes of the vector that has a NaN
    keys, values = (
        numbers_of(found.keys, found.key_scales, found.key_minimums),
        numbers_of(found.values, found.value_scales, found.value_minimums),
    )
    for request, length in enumerate([18, 4]):
        read = cache.read(0, step.block_tables[request], length)
        for mine, theirs in zip((keys, values), read, strict=True):
            stored = mine[step.block_tables[request]].reshape(-1, kv_heads, dim)[:length]
            assert np.array_equal(stored, theirs, equal_nan=True)


def test_padding_is_not_stored(gpu: Launcher) -> None:
    cache = cached("float16", 1, 64)
    x = torch.ones(2, 64)
    cells = torch.tensor([-1, 17], dtype=torch.int32)
    rotate_kv_write(gpu, x, x, x, torch.ones(2, 64), cells, cache, torch.empty(2, 64))
    assert cache.values.count_nonzero() == 64
    assert cache.values[1, 1].all()
