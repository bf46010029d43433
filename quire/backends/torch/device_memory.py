"""Memory of a device that is taken when an engine starts, so that traffic finds it there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from quire.backends.torch.devices import Device
from quire.errors import CapacityError

__all__ = ["claim", "within_memory"]


def claim(num_bytes: int, device: Device) -> None:
    """Take room for the values of a step, which torch then keeps for them.

    Raises torch.OutOfMemoryError where it is not there.
    """
    if not device.is_cpu:
        torch.empty(num_bytes, dtype=torch.uint8, device=device.torch_device)


@contextmanager
def within_memory(device: Device, planned: str) -> Iterator[None]:
    """Turn a device's refusal into a CapacityError.  planned: what should
    have fit, in numbers."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        found = device.free_memory()
        free = "" if found is None else f", of which {found[0] / 2**20:,.0f} MiB are free now"
        raise CapacityError(
            f"{device.torch_device} gave less memory than it promised{free}; planned was "
            f"{planned}; stop what else uses it, or lower memory_utilization"
        ) from error
