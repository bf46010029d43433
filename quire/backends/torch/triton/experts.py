"""A mixture of experts: grouped products, the activation between them, and a sum in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from quire.backends.torch.host_copies import sent
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

__all__ = ["ExpertMatrices", "ExpertParts", "Mixture", "mixture_of_experts", "mixtures_of"]


ExpertParts: TypeAlias = Sequence[tuple[Matrix, torch.Tensor | None]]
"""Gate, up and down of an expert, each with its bias."""


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
    """Experts of one make: gate and up [F, E], down [E, F].

    members: bool [X], which of the layer's experts these are; None: all.
    """

    gate: ExpertMatrices
    up: ExpertMatrices
    down: ExpertMatrices
    members: torch.Tensor | None = None


def mixtures_of(experts: Sequence[ExpertParts]) -> tuple[Mixture, ...]:
    """The experts of a layer as kernels find them, those of one make together."""
    makes: dict[object, list[int]] = {}
    for place, parts in enumerate(experts):
        makes.setdefault(tuple(_make(*part) for part in parts), []).append(place)
    return tuple(_mixture(experts, places) for places in makes.values())


def _mixture(experts: Sequence[ExpertParts], places: Sequence[int]) -> Mixture:
    """Others than those at these places count as the first one; nobody reads them there."""
    is_member = np.isin(np.arange(len(experts)), places)
    kept = [experts[place if is_member[place] else places[0]] for place in range(len(experts))]
    gate, up, down = (_matrices([parts[which] for parts in kept]) for which in range(3))
    members = None if is_member.all() else sent(is_member, gate.offsets.device)
    return Mixture(gate, up, down, members)


def _matrices(parts: ExpertParts) -> ExpertMatrices:
    first, bias = parts[0]
    assert isinstance(first, FloatMatrix | CodedMatrix)
    tensors = [(*_tensors(matrix), bias) for matrix, bias in parts]
    offsets = sent(np.array(offsets_of(tensors), np.int64), tensors[0][0].device)
    return ExpertMatrices(first, bias, offsets)


def _tensors(matrix: Matrix) -> tuple[Any, ...]:
    """What a kernel reads of it, in the order of the offsets."""
    if isinstance(matrix, FloatMatrix):
        return (matrix.numbers,)
    assert isinstance(matrix, CodedMatrix)
    return tensors_of(matrix)


def _make(matrix: Matrix, bias: torch.Tensor | None) -> object:
    """Equal of matrices that one start of a kernel can multiply."""
    if isinstance(matrix, FloatMatrix):
        return bias is None, matrix.numbers.shape, matrix.numbers.dtype
    assert isinstance(matrix, CodedMatrix)
    facts = (bias is None, matrix.zeros is None, matrix.minimums is None, matrix.middle)
    table = None if matrix.table is None else tuple(matrix.table.tolist())
    make = matrix.shape, matrix.group_size, matrix.kind, facts, matrix.factor, table, matrix.dtype
    return (*make, matrix.has_pairs)


def mixture_of_experts(
    gpu: Launcher,
    x: torch.Tensor,
    ids: torch.Tensor,
    weights: torch.Tensor,
    mixtures: Sequence[Mixture],
    activation: GatedActivation,
    out: torch.Tensor,
    *,
    scales_inputs: bool = False,
    is_part: bool = False,
) -> None:
    """out [rows, E] = what quire.ops.experts.MixtureOfExperts says of x [rows, E].

    ids: int [rows, top_k], ascending.  weights: float32 [rows, top_k].  is_part: ids may be no
    expert's, which then adds nothing.
    """
    rows, top_k = ids.shape
    count = mixtures[0].gate.offsets.shape[1]
    kernels = {part.kernel for each in mixtures for part in (each.gate, each.up, each.down)}
    tiles = {each: expert_tiles(gpu, each, ids, count) for each in sorted(kernels)}
    order = next(iter(tiles.values())).order
    row = order // top_k
    factors = weights.reshape(-1)[order.long()]
    in_front, behind = (factors, None) if scales_inputs else (None, factors)
    room = x.new_zeros if is_part else x.new_empty
    sums = room((top_k, rows, out.shape[1]), dtype=torch.float32)
    for each in mixtures:
        mine = {name: some.of(each.members) for name, some in tiles.items()}
        width = each.gate.first.num_rows
        both = x.new_empty((2, rows * top_k, width), dtype=torch.float32)
        for to, matrices in zip(both, (each.gate, each.up), strict=True):
            _product(gpu, x, matrices, to, mine, in_rows=row, factors=in_front)
        hidden = x.new_empty((rows * top_k, width), dtype=each.down.dtype)
        gated_activation(gpu, activation, both[0], both[1], hidden)
        _product(
            gpu, hidden, each.down, sums.view(rows * top_k, -1), mine,
            out_rows=order % top_k * rows + row, factors=behind,
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
