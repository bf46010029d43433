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
from quire.backends.torch.side_stream import Mark, SideStream, host_buffer

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
    """Tensors on the host, which have their numbers when the device has come to a mark.

    sources: what is copied, whose memory must not be used for something else before.
    """

    tensors: tuple[torch.Tensor, ...]
    mark: Mark
    sources: Sequence[torch.Tensor]

    def wait(self) -> tuple[torch.Tensor, ...]:
        """The tensors with their numbers."""
        self.mark.wait()
        return self.tensors


class HostCopies:
    """Copies tensors of one device to the host."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._side = SideStream(device)

    def start(self, tensors: Sequence[torch.Tensor]) -> Arriving:
        """Begin to copy what the work given to the device so far makes of some tensors."""
        self._side.wait_for_computation()
        found, mark = [], Mark()
        for each in tensors:
            buffer = host_buffer(each.nbytes, self._device)
            found.append(buffer.view(each.dtype).view(each.shape))
            mark = self._side.copy(found[-1], each)
        return Arriving(tuple(found), mark, tensors)
