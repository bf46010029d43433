"""A mixture of experts: grouped products, the activation between them, and a sum in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from quire.backends.torch.matrix import CodedMatrix, FloatMatrix, Matrix
from quire.backends.torch.triton.activation import gated_activation
from quire.backends.torch.triton.code_matmul import (
    add_partial_sums,
    expert_code_matmul,
    tensors_of,
)
from quire.backends.torch.triton.expert_tiles import (
    ExpertRows,
    ExpertTiles,
    expert_tiles,
    offsets_of,
)
from quire.backends.torch.triton.float_matmul import expert_matmul
from quire.backends.torch.triton.launcher import Launcher
from quire.ops.activation import GatedActivation

__all__ = ["ExpertMatrices", "Mixture", "expert_matrices", "mixture_of_experts"]


@dataclass(frozen=True)
class ExpertMatrices:
    """One matrix [N, K] and bias [N] of each of X experts, wherever they stand.

    first, bias: of the first expert.  offsets: int64 [any, X], how far from there the others' are.
    """

    first: FloatMatrix | CodedMatrix
    bias: torch.Tensor | None
    offsets: torch.Tensor

    @property
    def kernel(self) -> str:
        """Whose tiles its product takes."""
        return "float_matmul" if isinstance(self.first, FloatMatrix) else "code_matmul"

    @property
    def dtype(self) -> torch.dtype:
        """Of the product."""
        first = self.first
        return first.numbers.dtype if isinstance(first, FloatMatrix) else first.dtype


@dataclass(frozen=True)
class Mixture:
    """The experts of a layer: gate and up [F, E], down [E, F]."""

    gate: ExpertMatrices
    up: ExpertMatrices
    down: ExpertMatrices


def expert_matrices(
    matrices: Sequence[Matrix], biases: Sequence[torch.Tensor | None]
) -> ExpertMatrices | None:
    """The matrices of the experts as kernels find them; None if they are not all of one make."""
    first = matrices[0]
    if len({_make(each) for each in matrices}) > 1 or len({each is None for each in biases}) > 1:
        return None
    assert isinstance(first, FloatMatrix | CodedMatrix)
    tensors = [(*_tensors(each), bias) for each, bias in zip(matrices, biases, strict=True)]
    device = tensors[0][0].device
    return ExpertMatrices(first, biases[0], torch.tensor(offsets_of(tensors), device=device))


def _tensors(matrix: Matrix) -> tuple[Any, ...]:
    """What a kernel reads of it, in the order of the offsets."""
    if isinstance(matrix, FloatMatrix):
        return (matrix.numbers,)
    assert isinstance(matrix, CodedMatrix)
    return tensors_of(matrix)


def _make(matrix: Matrix) -> object:
    """Equal of matrices that one start of a kernel can multiply."""
    if isinstance(matrix, FloatMatrix):
        return matrix.numbers.shape, matrix.numbers.dtype
    assert isinstance(matrix, CodedMatrix)
    facts = (matrix.zeros is None, matrix.minimums is None, matrix.middle, matrix.factor)
    table = None if matrix.table is None else tuple(matrix.table.tolist())
    return matrix.shape, matrix.group_size, matrix.kind, facts, table, matrix.dtype


def mixture_of_experts(
    gpu: Launcher,
    x: torch.Tensor,
    ids: torch.Tensor,
    weights: torch.Tensor,
    experts: Mixture,
    activation: GatedActivation,
    out: torch.Tensor,
    *,
    scales_inputs: bool = False,
) -> None:
    """out [rows, E] = what quire.ops.experts.MixtureOfExperts says of x [rows, E].

    ids: int [rows, top_k], ascending.  weights: float32 [rows, top_k].
    """
    rows, top_k = ids.shape
    count = experts.gate.offsets.shape[1]
    tiles = {
        each.kernel: expert_tiles(gpu, each.kernel, ids, count)
        for each in (experts.gate, experts.up, experts.down)
    }
    order = tiles[experts.gate.kernel].order
    row = order // top_k
    factors = weights.reshape(-1)[order.long()]
    width = experts.gate.first.num_rows
    both = x.new_empty((2, rows * top_k, width), dtype=torch.float32)
    for to, matrices in zip(both, (experts.gate, experts.up), strict=True):
        scaled = factors if scales_inputs else None
        _product(gpu, x, matrices, to, tiles, in_rows=row, factors=scaled)
    hidden = x.new_empty((rows * top_k, width), dtype=experts.down.dtype)
    gated_activation(gpu, activation, both[0], both[1], hidden)
    sums = x.new_empty((top_k, rows, out.shape[1]), dtype=torch.float32)
    _product(
        gpu, hidden, experts.down, sums.view(rows * top_k, -1), tiles,
        out_rows=order % top_k * rows + row, factors=None if scales_inputs else factors,
    )  # fmt: skip
    add_partial_sums(gpu, sums, out, None)


def _product(
    gpu: Launcher,
    x: torch.Tensor,
    matrices: ExpertMatrices,
    out: torch.Tensor,
    tiles: dict[str, ExpertTiles],
    **rows: torch.Tensor | None,
) -> None:
    groups = ExpertRows(tiles[matrices.kernel], matrices.offsets, **rows)
    if isinstance(matrices.first, FloatMatrix):
        numbers = matrices.first.numbers
        expert_matmul(gpu, x.to(numbers.dtype), numbers, groups, out, matrices.bias)
    else:
        first = matrices.first
        expert_code_matmul(gpu, x.to(first.dtype), first, groups, out, matrices.bias)
