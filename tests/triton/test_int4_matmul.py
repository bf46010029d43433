"""Products with 4-bit weights are those of the matrix they stand for, in every group and tile."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quire.backends.torch.triton import int4_matmul
from quire.backends.torch.triton.int4_matmul import Int4Weight
from quire.backends.torch.triton.launcher import Launcher
from quire.backends.torch.triton.tiles import Tile
from quire.quant.matrix import QuantizedMatrix

CPU = torch.device("cpu")
STEPS = {torch.float32: 2**-22, torch.float16: 2**-11, torch.bfloat16: 2**-8}


def small(rows: int, columns: int) -> Launcher:
    tiles = {("int4_matmul", each): Tile(rows, columns) for each in ("few", "some", "many")}
    return Launcher("sm_80", {**tiles, ("add_segments", ""): Tile(1, 32)})


def matrix(rows: int, columns: int, group: int, has_zeros: bool, seed: int = 0) -> QuantizedMatrix:
    rng = np.random.default_rng(seed)
    groups = -(-columns // group)
    return QuantizedMatrix(
        "w", 4, group,
        rng.integers(0, 16, (rows, columns), np.uint8),
        (rng.random((rows, groups)) / 64 + 0.001).astype(np.float16).astype(np.float32),
        rng.integers(0, 16, (rows, groups), np.uint8) if has_zeros else None,
    )  # fmt: skip


def numbers(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    rng = np.random.default_rng(1)
    return torch.from_numpy(rng.standard_normal((rows, columns)).astype(np.float32)).to(dtype)


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small matrices have several."""
    monkeypatch.setattr(int4_matmul, "LEAST_SEGMENT", 128)


@pytest.mark.parametrize("dtype", STEPS)
@pytest.mark.parametrize("has_zeros", [False, True], ids=["middle", "zeros"])
@pytest.mark.parametrize(
    ("rows", "outputs", "columns", "group"),
    [(1, 40, 96, 32), (3, 33, 320, 64), (17, 70, 384, 128), (2, 16, 160, 10**6), (5, 8, 32, 32)],
)
def test_is_the_product(
    rows: int, outputs: int, columns: int, group: int, has_zeros: bool, dtype: torch.dtype
) -> None:
    weight, x = matrix(outputs, columns, group, has_zeros), numbers(rows, columns, dtype)
    bias = torch.arange(outputs).float()
    out = torch.empty(rows, outputs)
    mine = Int4Weight.of(weight, CPU)
    int4_matmul.int4_matmul(small(16, 32), x, mine, out, bias)
    wide, sums = weight.float32(), x.double().numpy()
    expected = sums @ wide.T.astype(np.float64) + bias.numpy()
    bound = STEPS[dtype] * (np.abs(sums) @ np.abs(wide.T)) + 2**-20 * np.abs(expected)
    assert (np.abs(out.numpy() - expected) <= bound).all()


def test_bits_hang_on_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits in every tile, in segments side by side or not, and alone."""
    weight = Int4Weight.of(matrix(70, 640, 64, True), CPU)
    x = numbers(20, 640, torch.float16)
    outs = []
    for few, gpu in [
        (64, small(16, 32)),
        (0, small(16, 32)),
        (64, small(32, 64)),
        (0, small(16, 16)),
    ]:
        monkeypatch.setattr(int4_matmul, "FEW_ROWS", few)
        outs.append(torch.empty(20, 70))
        int4_matmul.int4_matmul(gpu, x, weight, outs[-1])
    one = torch.empty(1, 70)
    int4_matmul.int4_matmul(small(16, 32), x[11:12], weight, one)
    assert all(torch.equal(outs[0], each) for each in outs[1:])
    assert torch.equal(one[0], outs[0][11])


def test_rows_keep_to_themselves() -> None:
    """A row that is none, in strided rows, spoils no other; nor does one with large numbers."""
    weight = Int4Weight.of(matrix(40, 96, 32, False), CPU)
    wide = numbers(4, 200, torch.float16)
    x = wide[:, 50:146]
    clean, found = torch.empty(4, 40), torch.empty(4, 40)
    int4_matmul.int4_matmul(small(16, 32), x, weight, clean)
    x[1], x[2] = float("nan"), 60000.0
    int4_matmul.int4_matmul(small(16, 32), x, weight, found)
    assert torch.equal(found[[0, 3]], clean[[0, 3]])
    assert found[1].isnan().all() and found[2].isfinite().all()


def test_refuses_other_formats() -> None:
    weight = matrix(8, 96, 48, False)
    with pytest.raises(ValueError, match="groups of 48"):
        Int4Weight.of(weight, CPU)
