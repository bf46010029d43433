"""Bytes that stand in host memory from where a device copies them, for as long as the process runs.

They are kept in slabs of a power of two bytes, for pinned memory is rounded up to one.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from quire.backends.torch.devices import Device
from quire.backends.torch.side_stream import host_buffer

__all__ = ["SLAB_BYTES", "HostMemory"]

SLAB_BYTES = 256 * 1024**2


class HostMemory:
    """A row of bytes that grows at its end; nothing is ever taken out."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._slabs: list[torch.Tensor] = []
        self.num_bytes = 0

    def append(self, data: torch.Tensor) -> None:
        """Add the bytes of a tensor of uint8, wherever it is; waits until they are here."""
        start, self.num_bytes = self.num_bytes, self.num_bytes + data.numel()
        while len(self._slabs) * SLAB_BYTES < self.num_bytes:
            self._slabs.append(host_buffer(SLAB_BYTES, self._device))
        for at, part in self.parts(start, self.num_bytes):
            part.copy_(data[at : at + len(part)])

    def parts(self, start: int, end: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Bytes start .. end - 1 as views of slabs, and where each view begins among them."""
        at = start
        while at < end:
            slab, inside = divmod(at, SLAB_BYTES)
            size = min(SLAB_BYTES - inside, end - at)
            yield at - start, self._slabs[slab][inside : inside + size]
            at += size
