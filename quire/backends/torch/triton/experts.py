"""A mixture of experts: two grouped products, the activation between them, and a sum in order."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from quire.backends.torch.triton.activation import gated_activation
from quire.backends.torch.triton.float_matmul import expert_matmul, expert_tiles
from quire.backends.torch.triton.int4_matmul import add_partial_sums
from quire.backends.torch.triton.launcher import Launcher
from quire.ops.activation import GatedActivation

__all__ = ["ExpertWeights", "mixture_of_experts"]


@dataclass(frozen=True)
class ExpertWeights:
    """Stacks of X experts: gate and up [X, 2 F, E], the gates first; down [X, E, F]; biases."""

    gate_up: torch.Tensor
    down: torch.Tensor
    gate_up_bias: torch.Tensor | None = None
    down_bias: torch.Tensor | None = None


def mixture_of_experts(
    gpu: Launcher,
    x: torch.Tensor,
    ids: torch.Tensor,
    weights: torch.Tensor,
    experts: ExpertWeights,
    activation: GatedActivation,
    out: torch.Tensor,
    *,
    scales_inputs: bool = False,
) -> None:
    """out [rows, E] = what quire.ops.experts.MixtureOfExperts says of x [rows, E].

    ids: int [rows, top_k], ascending.  weights: float32 [rows, top_k].
    """
    rows, top_k = ids.shape
    groups = expert_tiles(gpu, ids, len(experts.down))
    order = groups.order
    row = order // top_k
    factors = weights.reshape(-1)[order.long()]
    width = experts.down.shape[2]
    both = x.new_empty((rows * top_k, 2 * width))
    expert_matmul(
        gpu, x, experts.gate_up, groups, both, bias=experts.gate_up_bias, in_rows=row,
        factors=factors if scales_inputs else None,
    )  # fmt: skip
    hidden = x.new_empty((rows * top_k, width))
    gated_activation(gpu, activation, both[:, :width], both[:, width:], hidden)
    sums = x.new_empty((top_k, rows, out.shape[1]), dtype=torch.float32)
    expert_matmul(
        gpu, hidden, experts.down, groups, sums.view(rows * top_k, -1), bias=experts.down_bias,
        out_rows=order % top_k * rows + row, factors=None if scales_inputs else factors,
    )  # fmt: skip
    add_partial_sums(gpu, sums, out, None)
