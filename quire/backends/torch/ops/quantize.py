"""What products in a narrow dtype read, rounded once for all of them."""

from __future__ import annotations

import torch

from quire.backends.torch.registry import body
from quire.backends.torch.step import Step
from quire.ops.quantize import Quantize

__all__ = ["quantize"]


def _only_bfloat16(op: Quantize, device: object) -> str | None:
    return None if op.format == "bfloat16" else f"no torch body rounds rows to {op.format}"


@body(Quantize, declines=_only_bfloat16, captured="always")
def quantize(step: Step, op: Quantize, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """x in bfloat16."""
    return (x.to(torch.bfloat16),)
