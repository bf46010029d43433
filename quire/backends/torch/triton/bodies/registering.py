"""What all Triton bodies have in common: how they are registered, and what starts their kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from quire.backends.torch import registry
from quire.backends.torch.devices import Device
from quire.backends.torch.registry import Captured, Compute
from quire.backends.torch.step import Step
from quire.backends.torch.triton.launcher import Launcher, launcher_of

__all__ = ["gpu_of", "rows_like", "triton_body"]


def triton_body(
    *ops: type,
    declines: Callable[[Any], str | None] = lambda op: None,
    captured: Captured = "always",
) -> Callable[[Compute], Compute]:
    """Register the decorated function as the Triton body of these op classes.

    declines: why the kernels cannot compute an op on any device; None where they can.  captured:
    see Body.
    """

    def why(op: Any, device: Device) -> str | None:
        if device.triton_architecture is None:
            return f"{device.torch_device} runs no Triton kernels"
        return declines(op)

    return registry.body(*ops, name="triton", declines=why, captured=captured)


def gpu_of(step: Step) -> Launcher:
    """What starts kernels on the step's device."""
    return launcher_of(step.device)


def rows_like(x: torch.Tensor, width: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Room for as many rows as x has."""
    return x.new_empty((len(x), width), dtype=dtype)
