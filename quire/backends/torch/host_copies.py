"""Numbers on their way to a device and back, for which neither the host nor the device waits.

Where a device has streams (CUDA, XPU, NPU, HPU), results are copied on one of their own, behind
what computed them and beside what is computed next, to memory that the device writes by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from quire.backends.torch.arrays import as_tensor
from quire.backends.torch.devices import PINNING, Device

__all__ = ["Arriving", "HostCopies", "sent"]


def sent(array: np.ndarray[Any, Any], device: torch.device) -> torch.Tensor:
    """The array on the device, which need not be there yet; the array may be changed at once.

    On a CPU it is the array's own memory.
    """
    if device.type not in PINNING:
        return as_tensor(array, device)
    return as_tensor(array, torch.device("cpu")).pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True, slots=True)
class Arriving:
    """Tensors on the host, which have their numbers when `event` has come; None: they have.

    sources: what is copied, whose memory must not be used for something else before.
    """

    tensors: tuple[torch.Tensor, ...]
    event: Any = None
    sources: Sequence[torch.Tensor] = ()

    def wait(self) -> tuple[torch.Tensor, ...]:
        """The tensors with their numbers."""
        if self.event is not None:
            self.event.synchronize()
        return self.tensors


class HostCopies:
    """Copies tensors of one device to the host."""

    def __init__(self, device: Device) -> None:
        self._streams = device.streams
        self._stream = None if self._streams is None else self._streams.Stream(device.torch_device)
        self._pins = self._streams is not None and device.torch_device.type in PINNING

    def start(self, tensors: Sequence[torch.Tensor]) -> Arriving:
        """Begin to copy what the work given to the device so far makes of some tensors."""
        streams, side = self._streams, self._stream
        if streams is None or side is None:
            return Arriving(tuple(each.cpu() for each in tensors))
        side.wait_stream(streams.current_stream())
        with streams.stream(side):
            found = tuple(self._copied(each) for each in tensors)
            event = streams.Event()
            event.record(side)
        return Arriving(found, event, tensors)

    def _copied(self, tensor: torch.Tensor) -> torch.Tensor:
        found = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=self._pins)
        return found.copy_(tensor, non_blocking=True)
