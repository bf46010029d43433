"""Copies between the host and a device that run beside the device's computation.

Where a device has no streams they run in line with it, and marks are passed at once.
"""

from __future__ import annotations

from typing import Any

import torch

from quire.backends.torch.devices import Device

__all__ = ["Mark", "SideStream", "host_buffer"]


class Mark:
    """A place in the order of a device's work."""

    def __init__(self, event: Any = None) -> None:
        self.event = event

    def wait(self) -> None:
        """Let the host wait until the device has come here."""
        if self.event is not None:
            self.event.synchronize()


class SideStream:
    """One more queue of a device's work, which runs beside the computation."""

    def __init__(self, device: Device) -> None:
        self._module = device.streams
        self._device = device.torch_device
        self._stream = None if self._module is None else self._module.Stream(self._device)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> Mark:
        """Copy a tensor behind what this stream does already; the mark is behind the copy."""
        if self._module is None:
            target.copy_(source)
            return Mark()
        with self._module.stream(self._stream):
            target.copy_(source, non_blocking=True)
            event = self._module.Event()
            event.record()
        return Mark(event)

    def wait_for_computation(self) -> None:
        """Start what comes next only when all that is computed now is done."""
        if self._stream is not None and self._module is not None:
            self._stream.wait_stream(self._module.current_stream(self._device))

    def hold_computation(self, mark: Mark) -> None:
        """Let the computation go on only when this stream has passed a mark."""
        if self._module is not None and mark.event is not None:
            self._module.current_stream(self._device).wait_event(mark.event)


def host_buffer(num_bytes: int, device: Device) -> torch.Tensor:
    """Host memory that a device can copy from and to by itself; plain where it needs none such.

    num_bytes: torch may take the next power of two for it.
    """
    if not device.is_cpu and device.streams is not None:
        return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
    return torch.empty(num_bytes, dtype=torch.uint8)
