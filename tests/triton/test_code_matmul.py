"""Products with codes are those of the matrix they stand for, in every layout and every tile."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quire.backends.torch.matrix import CodedMatrix, as_matrix
from quire.backends.torch.triton import code_matmul
from quire.backends.torch.triton.launcher import Launcher
from quire.backends.torch.triton.tiles import Tile
from quire.quant.packing import pack_matrix
from tests.engine import packed_layouts as layouts

CPU = torch.device("cpu")
SUMS = {torch.float32: 2**-21, torch.float16: 2**-20, torch.bfloat16: 2**-20}
"""How far sums in float32 may be off, as a share of the sum of magnitudes."""


def small(rows: int, columns: int) -> Launcher:
    tiles = {("code_matmul", each): Tile(rows, columns) for each in ("few", "some", "many")}
    return Launcher("sm_80", {**tiles, ("add_segments", ""): Tile(1, 32)})


def matrix(
    kind: tuple[str, int, int], rows: int, columns: int, dtype: torch.dtype = torch.float16
) -> CodedMatrix:
    weights = np.random.default_rng(1).standard_normal((rows, columns)).astype(np.float32)
    packed = pack_matrix(layouts.rounded("w", weights, *kind))
    assert packed is not None
    found = as_matrix(packed, dtype, CPU)
    assert isinstance(found, CodedMatrix)
    return found


def numbers(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    rng = np.random.default_rng(1)
    return torch.from_numpy(rng.standard_normal((rows, columns)).astype(np.float32)).to(dtype)


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small matrices have several."""
    monkeypatch.setattr(code_matmul, "LEAST_SEGMENT", 128)


@pytest.mark.parametrize("kind", layouts.KINDS, ids=str)
def test_is_the_product_of_what_torch_widens(kind: tuple[str, int, int]) -> None:
    """In each dtype, with the last step of columns half full; the numbers multiplied are equal."""
    columns = {128: 384, 64: 192, 32: 96, 16: 112, 1024: 80}[kind[2]]
    for dtype, bound in SUMS.items():
        weight, x = matrix(kind, 33, columns, dtype), numbers(3, columns, dtype)
        bias, out = torch.arange(33).float(), torch.empty(3, 33)
        code_matmul.code_matmul(small(16, 64), x, weight, out, bias)
        wide = weight.widened(slice(None)).to(dtype).double()
        expected = x.double() @ wide.T + bias
        sizes = x.double().abs() @ wide.abs().T + expected.abs()
        assert ((out - expected).abs() <= bound * sizes).all(), dtype


def test_bits_hang_on_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits in every tile, in segments side by side or not, and alone."""
    weight, x = matrix(("zeros", 4, 128), 70, 640), numbers(20, 640, torch.float16)
    assert code_matmul.num_segments(70, 640) > 1
    outs = []
    for few, gpu in [(64, small(16, 32)), (0, small(32, 64))]:
        monkeypatch.setattr(code_matmul, "FEW_ROWS", few)
        outs.append(torch.empty(20, 70))
        code_matmul.code_matmul(gpu, x, weight, outs[-1])
    one = torch.empty(1, 70)
    code_matmul.code_matmul(small(16, 32), x[11:12], weight, one)
    assert torch.equal(outs[0], outs[1]) and torch.equal(one[0], outs[0][11])


def test_rows_keep_to_themselves() -> None:
    """A row that is none, in strided rows, spoils no other; nor does one with large numbers."""
    weight, wide = matrix(("symmetric", 3, 32), 40, 96), numbers(4, 200, torch.float16)
    x = wide[:, 50:146]
    clean, found = torch.empty(4, 40), torch.empty(4, 40)
    code_matmul.code_matmul(small(16, 64), x, weight, clean)
    x[1], x[2] = float("nan"), 10000.0
    code_matmul.code_matmul(small(16, 64), x, weight, found)
    assert torch.equal(found[[0, 3]], clean[[0, 3]])
    assert found[1].isnan().all() and found[2].isfinite().all()
