"""Norms, with sums before them, are the reference ops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quire.backends.torch.triton.launcher import Launcher
from quire.backends.torch.triton.norm import NormRule, norm
from quire.ops.batch import Batch
from quire.ops.elementwise import Add
from quire.ops.norm import AddNorm, LayerNorm, NormAdd, RmsNorm
from quire.ops.op import Environment

SHAPES = [(1, 64, 1), (3, 100, 1), (5, 896, 1), (2, 5120, 1), (3, 6 * 80, 6), (2, 14 * 64, 14)]
NONE = np.zeros(0, np.int32)


def environment(**weights: np.ndarray) -> Environment:
    batch = Batch(NONE, NONE, NONE, NONE, NONE, NONE, ())
    return Environment(batch, None, weights)  # type: ignore[arg-type]


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def close(found: torch.Tensor, expected: np.ndarray, step: float = 2**-21) -> bool:
    return np.abs(found.float().numpy() - expected).max() <= step * max(1, np.abs(expected).max())


@pytest.mark.parametrize(("rows", "width", "heads"), SHAPES)
def test_rms(gpu: Launcher, rows: int, width: int, heads: int) -> None:
    x, weight = numbers(rows, width), numbers(width // heads, seed=1)
    op = RmsNorm("w", 1e-6, heads, 1.0)
    out = torch.empty(rows, width)
    rule = NormRule("rms", 1e-6, torch.from_numpy(weight), None, 1.0, heads)
    norm(gpu, torch.from_numpy(x), rule, out)
    assert close(out, op.reference(environment(w=weight), x)[0])


def test_weights_of_their_own_for_heads(gpu: Launcher) -> None:
    x, weight, out = numbers(3, 60), numbers(60, seed=1), torch.empty(3, 60)
    op = RmsNorm("w", 1e-6, 5, wide_weight=True)
    norm(
        gpu,
        torch.from_numpy(x),
        NormRule("rms", 1e-6, torch.from_numpy(weight), None, 0.0, 5, True),
        out,
    )
    assert close(out, op.reference(environment(w=weight), x)[0])


@pytest.mark.parametrize(("rows", "width", "heads"), SHAPES)
def test_layer(gpu: Launcher, rows: int, width: int, heads: int) -> None:
    x = numbers(rows, width) + 3
    weight, bias = numbers(width // heads, seed=1), numbers(width // heads, seed=2)
    op = LayerNorm("w", "b", 1e-5, heads)
    out = torch.empty(rows, width)
    rule = NormRule("layer", 1e-5, torch.from_numpy(weight), torch.from_numpy(bias), heads=heads)
    norm(gpu, torch.from_numpy(x), rule, out)
    assert close(out, op.reference(environment(w=weight, b=bias), x)[0], 2**-20)


@pytest.mark.parametrize("has_first", [False, True], ids=["sum", "normed sum"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_sum_and_norm(gpu: Launcher, dtype: torch.dtype, has_first: bool) -> None:
    """The sum may be written over the residual, and rows may stand in wider ones."""
    wide = torch.from_numpy(numbers(3, 150)).to(dtype)
    x, residual = wide[:, 20:120], torch.from_numpy(numbers(3, 100, seed=1)).to(dtype)
    weight, first = numbers(100, seed=2), numbers(100, seed=3)
    add = NormAdd(RmsNorm("f", 1e-6), Add(0.5)) if has_first else Add(0.5)
    expected = AddNorm(RmsNorm("w", 1e-6), add).reference(
        environment(w=weight, f=first), x.float().numpy(), residual.float().numpy()
    )
    out = torch.empty(3, 100, dtype=dtype)
    rule = NormRule("rms", 1e-6, torch.from_numpy(weight))
    before = NormRule("rms", 1e-6, torch.from_numpy(first)) if has_first else None
    norm(gpu, x, rule, out, residual=residual, sum_out=residual, scale=0.5, before=before)
    step = {torch.float32: 2**-20, torch.float16: 2**-11, torch.bfloat16: 2**-8}[dtype]
    assert close(out, expected[0], step)
    assert close(residual, expected[1], step)


def test_rows_alone(gpu: Launcher) -> None:
    """A row's bits do not depend on the others."""
    x = torch.from_numpy(numbers(5, 96))
    rule, out, one = NormRule("rms", 1e-6, heads=3), torch.empty(5, 96), torch.empty(1, 96)
    norm(gpu, x, rule, out)
    for row in range(5):
        norm(gpu, x[row : row + 1], rule, one)
        assert torch.equal(one[0], out[row])


def test_large_and_none(gpu: Launcher) -> None:
    """Numbers whose squares are infinite give 0, as in the reference, and NaN stays in its row."""
    x = numbers(3, 64)
    x[0] = 1e25
    x[1, 3] = np.nan
    out = torch.empty(3, 64)
    norm(gpu, torch.from_numpy(x), NormRule("rms", 1e-6), out)
    with np.errstate(over="ignore"):
        (expected,) = RmsNorm(None, 1e-6).reference(environment(), x)
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-5)
