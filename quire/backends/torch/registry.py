"""Which function computes which op: the plain bodies, and faster ones that some devices have.

A body is called as `compute(step, op, *inputs)` and returns the op's outputs, as the op's reference
does.  Inputs and outputs are [rows, width] on the step's device, float32 unless an op rounds them.
Of the bodies of an op the last registered is asked first; one that declines says why, and the next
is asked.  A fused op without a body is taken apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch

from quire.backends.torch.devices import Device

__all__ = ["Body", "Captured", "Compute", "Declines", "bodies_of", "body"]

Compute: TypeAlias = Callable[..., tuple[torch.Tensor, ...]]
Declines: TypeAlias = Callable[[Any, Device], "str | None"]
Captured: TypeAlias = Literal["never", "decode", "always"]


@dataclass(frozen=True, slots=True)
class Body:
    """One way to compute an op.

    name: who computes, for people.  declines: why it cannot compute an op on a device; None where
    it can.  captured: in which steps its work may be recorded and replayed: in all, or only in
    those with one token of each request.  Such a body waits for nothing, reads of the step only
    tensors, `once` and `array`, and does the same whatever their numbers are.
    """

    name: str
    compute: Compute
    declines: Declines
    captured: Captured = "never"


_BODIES: dict[type, list[Body]] = {}


def body(
    *ops: type,
    name: str = "torch",
    declines: Declines = lambda op, device: None,
    captured: Captured = "never",
) -> Callable[[Compute], Compute]:
    """Register the decorated function as a body of these op classes."""

    def register(compute: Compute) -> Compute:
        for op in ops:
            _BODIES.setdefault(op, []).append(Body(name, compute, declines, captured))
        return compute

    return register


def bodies_of(op: type) -> tuple[Body, ...]:
    """The bodies of an op class, the one to ask first first."""
    return tuple(reversed(_BODIES.get(op, ())))
