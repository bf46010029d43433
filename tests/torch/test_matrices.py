"""Matrices on a device are the numbers of their files, whatever they are stored as."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quire.backends.torch.devices import find_device
from quire.backends.torch.matrix import CodedMatrix, as_matrix
from quire.backends.torch.weights import product_dtype, sizes_on_device
from quire.quant.packed import PackedMatrix
from quire.quant.packing import pack_matrix
from quire.weights.tensor import RawTensor
from tests.engine import packed_layouts as layouts

pytestmark = pytest.mark.oracle

CPU = find_device("cpu")


@pytest.mark.parametrize("kind", layouts.KINDS, ids=str)
def test_every_packed_layout(kind: tuple[str, int, int]) -> None:
    group = kind[2]
    for cols in (3 * min(group, 128), group // 2 + 8 if group > 32 else group):
        assert_numbers(small(kind, cols))


def small(kind: tuple[str, int, int], cols: int) -> PackedMatrix:
    weights = np.random.default_rng(1).standard_normal((37, cols)).astype(np.float32)
    packed = pack_matrix(layouts.rounded("w", weights, *kind))
    assert isinstance(packed, PackedMatrix)
    return packed


def test_every_matrix_of_the_model_of_all_layouts() -> None:
    packed = [each for each in layouts.demo().weights.values() if isinstance(each, PackedMatrix)]
    assert any(each.order is not None for each in packed)
    for each in {(each.dtype, each.order is None): each for each in packed}.values():
        assert_numbers(each)


def assert_numbers(packed: PackedMatrix) -> None:
    matrix, expected = as_matrix(packed, torch.float32, CPU.torch_device), packed.float32()
    assert isinstance(matrix, CodedMatrix)
    np.testing.assert_array_equal(matrix.widened(slice(None)).numpy(), expected)
    rows = torch.tensor([packed.shape[0] - 1, 0])
    np.testing.assert_array_equal(matrix.widened(rows).numpy(), expected[rows])
    x = np.random.default_rng(2).standard_normal((3, packed.shape[1])).astype(np.float32)
    found = matrix.product(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, x @ expected.T, rtol=1e-4, atol=1e-4)


def test_a_matrix_is_widened_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = small(("zeros", 4, 32), 96)
    matrix = as_matrix(packed, torch.float32, CPU.torch_device)
    x = torch.ones((2, packed.shape[1]))
    whole = matrix.product(x)
    monkeypatch.setattr("quire.backends.torch.matrix.WIDENED", 5 * packed.shape[1])
    torch.testing.assert_close(matrix.product(x), whole)


class Fake:
    """A device of which only the arithmetic is known."""

    is_cpu = False

    def __init__(self, has_bfloat16: bool) -> None:
        self.has_bfloat16 = has_bfloat16


@pytest.mark.parametrize(
    ("stored", "new", "old"),
    [
        ("F32", torch.float32, torch.float32),
        ("F16", torch.float16, torch.float16),
        ("BF16", torch.bfloat16, torch.float16),
        ("INT4", torch.bfloat16, torch.float16),
        ("F8_E4M3", torch.bfloat16, torch.float16),
    ],
)
def test_devices_without_bfloat16_multiply_in_float16(
    stored: str, new: torch.dtype, old: torch.dtype
) -> None:
    assert product_dtype(stored, Fake(True)) == new
    assert product_dtype(stored, Fake(False)) == old
    assert product_dtype(stored, CPU) == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("is_coded", [True, False])
def test_products_in_narrow_dtypes(dtype: torch.dtype, is_coded: bool) -> None:
    """What devices compute, on the CPU: near the float32 product, and float32 again."""
    packed = small(("zeros", 4, 32), 96)
    weights = packed.float32()
    weight = packed if is_coded else RawTensor("w", "F32", weights.shape, weights)
    x = torch.randn((3, weights.shape[1]), generator=torch.Generator().manual_seed(1))
    found = as_matrix(weight, dtype, CPU.torch_device).product(x)
    expected = x.numpy() @ weights.T
    assert found.dtype == torch.float32
    assert 0 < np.abs(found.numpy() - expected).max() < 0.02 * np.abs(expected).max()


def test_the_plan_counts_the_bytes() -> None:
    ones = np.ones((4, 8), np.float16)
    weights = {name: RawTensor(name, "F16", ones.shape, ones) for name in ("linear", "router")}
    assert sizes_on_device(weights, {"linear"}, Fake(True)) == {"linear": 64, "router": 128}
    assert sizes_on_device(weights, {"linear"}, CPU) == {"linear": 128, "router": 128}
