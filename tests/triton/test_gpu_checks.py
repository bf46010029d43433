"""The checks that bench.gpu runs on a GPU hold in the interpreter, and fail for a wrong kernel."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from bench.gpu import checks, layer_checks
from quire.backends.torch.matrix import CodedMatrix
from quire.backends.torch.triton.launcher import Launcher
from quire.backends.torch.triton.tiles import TILES, Tile


@pytest.fixture(autouse=True)
def little_work(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "OUTPUTS": 40, "COLUMNS": 96, "ROWS": 101, "HEADS": 6, "KV_HEADS": 2, "DIM": 64,
        "LENGTHS": ((270, 1), (0, 20)), "SAMPLED": 2, "VOCABULARY": 500,
    }.items():  # fmt: skip
        monkeypatch.setattr(checks, name, value)
    for name, value in {
        "KNOWN": 260, "NEW": 3, "LATENT_HEADS": 3, "RANK": 32, "ROTATED": 16, "TOKENS": 6,
        "KEY_HEADS": 1, "HEADS": 2, "HEAD_DIM": 8,
    }.items():  # fmt: skip
        monkeypatch.setattr(layer_checks, name, value)


def small() -> Launcher:
    tiles = dict.fromkeys(TILES["sm_80"], Tile(16, 64))
    return Launcher("sm_80", {**tiles, ("sampling", ""): Tile(1, 512)})


@pytest.mark.parametrize("name", checks.CHECKS)
def test_holds(name: str) -> None:
    torch.manual_seed(0)
    assert checks.CHECKS[name](small(), torch.device("cpu")) <= 1


def test_sees_a_wrong_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """One weight is off by a step."""
    multiply: Callable[..., None] = checks.code_matmul

    def wrong(gpu: Launcher, x: torch.Tensor, weight: CodedMatrix, out: torch.Tensor) -> None:
        weight.codes[0, 0, 0] ^= 4
        multiply(gpu, x, weight, out)
        weight.codes[0, 0, 0] ^= 4

    monkeypatch.setattr(checks, "code_matmul", wrong)
    assert checks.CHECKS["code_matmul, int4"](small(), torch.device("cpu")) > 1


def test_sees_rows_that_depend_on_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product that is right, but in another order for many rows."""

    def product(gpu: Launcher, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> None:
        shift = 1e-7 if len(x) > 1 else 0.0
        out.copy_(x.float() @ weight.float().T + shift)

    monkeypatch.setattr(checks, "float_matmul", product)
    assert checks.CHECKS["float_matmul"](small(), torch.device("cpu")) == math.inf
