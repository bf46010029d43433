"""Products with 8-bit codes are those of the numbers they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quire.backends.torch.triton.float8_matmul import float8_matmul
from quire.backends.torch.triton.int8_matmul import int8_matmul
from quire.backends.torch.triton.launcher import Launcher
from quire.backends.torch.triton.tiles import Tile
from quire.ops.number_formats import E4M3

SHAPES = [(1, 40, 96), (3, 33, 130), (18, 70, 256)]


def small(rows: int, columns: int) -> Launcher:
    names = [(kernel, size) for kernel in ("int8_matmul", "float8_matmul")
             for size in ("few", "some", "many")]  # fmt: skip
    return Launcher("sm_80", dict.fromkeys(names, Tile(rows, columns)))


@pytest.mark.parametrize(("rows", "outputs", "columns"), SHAPES)
def test_int8(rows: int, outputs: int, columns: int) -> None:
    """Exact but for the scales; the largest codes too."""
    rng = np.random.default_rng(0)
    x = rng.integers(-127, 128, (rows, columns), np.int8)
    weight = rng.integers(-127, 128, (outputs, columns), np.int8)
    x[0], weight[0] = 127, -127
    x_scales, scales = (rng.random(n).astype(np.float32) for n in (rows, outputs))
    bias = rng.standard_normal(outputs).astype(np.float32)
    out = torch.empty(rows, outputs)
    int8_matmul(small(16, 32), *map(torch.from_numpy, (x, x_scales, weight, scales)), out,
                torch.from_numpy(bias))  # fmt: skip
    sums = (x.astype(np.int64) @ weight.astype(np.int64).T).astype(np.float32)
    assert np.array_equal(out.numpy(), sums * (x_scales[:, None] * scales) + bias)


@pytest.mark.parametrize("weight_blocks", [False, True], ids=["outputs", "blocks"])
@pytest.mark.parametrize("rows_are", ["codes", "blocks of codes", "float16", "bfloat16"])
@pytest.mark.parametrize(("rows", "outputs", "columns"), SHAPES)
def test_float8(rows: int, outputs: int, columns: int, rows_are: str, weight_blocks: bool) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 127, (rows, columns), np.uint8)
    codes |= rng.integers(0, 2, (rows, columns), np.uint8) << 7
    weight = rng.integers(0, 127, (outputs, columns), np.uint8)
    blocks = -(-columns // 128)
    scales = rng.random((-(-outputs // 128), blocks) if weight_blocks else outputs).astype("f4")
    wide = E4M3[weight] * (
        np.kron(scales, np.ones((128, 128), np.float32))[:outputs, :columns]
        if weight_blocks else scales[:, None]
    )  # fmt: skip
    x_scales = None
    if rows_are in ("float16", "bfloat16"):
        x = torch.from_numpy(E4M3[codes]).to(getattr(torch, rows_are))
        exact = x.double().numpy()
    else:
        x = torch.from_numpy(codes)
        shape = (rows, blocks) if rows_are != "codes" else rows
        facts = rng.random(shape).astype(np.float32)
        spread = np.repeat(facts, 128, 1)[:, :columns] if facts.ndim == 2 else facts[:, None]
        x_scales, exact = torch.from_numpy(facts), E4M3[codes].astype(np.float64) * spread
    out = torch.empty(rows, outputs)
    float8_matmul(
        small(16, 32), x, x_scales, torch.from_numpy(weight), torch.from_numpy(scales), out
    )
    bound = 2**-20 * (np.abs(exact) @ np.abs(wide.T))
    assert (np.abs(out.numpy() - exact @ wide.T.astype(np.float64)) <= bound).all()


def test_bits_hang_on_nothing_else() -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((20, 300)).astype(np.float16))
    weight = torch.from_numpy(rng.integers(0, 127, (40, 300), np.uint8))
    scales = torch.from_numpy(rng.random(40).astype(np.float32))
    outs = []
    for gpu in (small(16, 16), small(32, 64)):
        outs.append(torch.empty(20, 40))
        float8_matmul(gpu, x, None, weight, scales, outs[-1])
    x[3] = float("nan")
    outs.append(torch.empty(1, 40))
    float8_matmul(small(16, 32), x[11:12], None, weight, scales, outs[-1])
    again = torch.empty(20, 40)
    float8_matmul(small(16, 32), x, None, weight, scales, again)
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[2][0], outs[0][11])
    assert torch.equal(again[4:], outs[0][4:]) and again[3].isnan().all()
