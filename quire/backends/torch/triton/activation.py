"""The functions between the matrices of an MLP, multiplied with a second product.

A program takes 1024 numbers.  gate, up and out are [rows, F] with any stride of rows, so that both
inputs may be halves of one product.  Sources: arXiv:1606.08415, arXiv:2109.08668.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from quire.backends.torch.triton.launcher import Launcher
from quire.backends.torch.triton.tiles import Tile
from quire.ops.activation import GatedActivation

__all__ = ["gate_rows", "gated", "gated_activation"]

BLOCK = 1024


def gated_activation(
    gpu: Launcher, op: GatedActivation, gate: torch.Tensor, up: torch.Tensor, out: torch.Tensor
) -> None:
    """out = activation(gate) * up."""
    rows, width = gate.shape
    gpu.run(
        gate_rows, (rows, -(-width // BLOCK)), Tile(1, BLOCK, 4, 1), gate=gate, up=up, out=out,
        width=width, gate_stride=gate.stride(0), up_stride=up.stride(0), out_stride=out.stride(0),
        alpha=op.alpha, limit=op.limit, KIND=op.kind, BLOCK=BLOCK,
    )  # fmt: skip


@triton.jit
def _tanh(x):
    return 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)


@triton.jit
def gated(gate, up, alpha, limit, KIND: tl.constexpr):
    """activation(gate) * up, all float32."""
    if KIND == "clamped_swiglu":
        gate = tl.minimum(gate, limit, propagate_nan=tl.PropagateNan.ALL)
        up = tl.clamp(up, -limit, limit, propagate_nan=tl.PropagateNan.ALL)
        return gate / (1.0 + tl.exp(-alpha * gate)) * (up + 1.0)
    if KIND == "silu":
        x = gate / (1.0 + tl.exp(-gate))
    elif KIND == "gelu":
        x = gate * 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))
    elif KIND == "gelu_tanh":
        x = 0.5 * gate * (1.0 + _tanh(0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)))
    elif KIND == "quick_gelu":
        x = gate / (1.0 + tl.exp(-1.702 * gate))
    elif KIND == "tanh":
        x = _tanh(gate)
    elif KIND == "sigmoid":
        x = 1.0 / (1.0 + tl.exp(-gate))
    else:
        x = tl.maximum(gate, 0.0, propagate_nan=tl.PropagateNan.ALL)
        if KIND == "relu_squared":
            x = x * x
    return x * up


@triton.jit
def gate_rows(
    gate, up, out, width, gate_stride, up_stride, out_stride, alpha, limit, KIND: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Row program_id(0), columns from program_id(1) * BLOCK on."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    g = tl.load(gate + row * gate_stride + column, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_stride + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_stride + column, gated(g, u, alpha, limit, KIND), mask=inside)
