"""Copies whole KV blocks between a device and host memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from quire.backends.torch.devices import Device
from quire.backends.torch.host_memory import SLAB_BYTES
from quire.backends.torch.kv_cache import DeviceKvCache
from quire.backends.torch.side_stream import host_buffer

__all__ = ["DeviceBlockCopies"]

TOGETHER_BYTES = 64 * 1024**2
"""Blocks are gathered on the device, so that each crosses in one piece; so many at a time."""


class DeviceBlockCopies:
    """BlockCopies of one device's cache.

    Everything is queued behind what the device does already, and what it does next comes after: no
    event is needed, and a host block may be read or overwritten by the next call.
    """

    def __init__(self, cache: DeviceKvCache, num_host_blocks: int, device: Device) -> None:
        self.num_host_blocks = num_host_blocks
        self._layers = cache.blocks
        self._block_bytes = cache.layout.bytes_per_block
        self._device = device.torch_device
        self._per_slab = max(SLAB_BYTES // self._block_bytes, 1)
        self._slabs = [
            host_buffer(min(self._per_slab, num_host_blocks - first) * self._block_bytes, device)
            for first in range(0, num_host_blocks, self._per_slab)
        ]

    def save(self, blocks: Sequence[int], host_blocks: Sequence[int]) -> None:
        """See BlockCopies."""
        for some, places in self._batches(blocks, host_blocks):
            rows = torch.cat([layer.index_select(0, some) for layer in self._layers], dim=1)
            for row, place in zip(rows, places, strict=True):
                self._host_block(place).copy_(row, non_blocking=True)

    def load(self, host_blocks: Sequence[int], blocks: Sequence[int]) -> None:
        """See BlockCopies."""
        for some, places in self._batches(blocks, host_blocks):
            rows = torch.empty(
                (len(places), self._block_bytes), dtype=torch.uint8, device=self._device
            )
            for row, place in zip(rows, places, strict=True):
                row.copy_(self._host_block(place), non_blocking=True)
            parts = rows.split([layer.shape[1] for layer in self._layers], dim=1)
            for layer, part in zip(self._layers, parts, strict=True):
                layer.index_copy_(0, some, part)

    def _batches(
        self, blocks: Sequence[int], host_blocks: Sequence[int]
    ) -> Iterator[tuple[torch.Tensor, Sequence[int]]]:
        """Blocks, on the device, and their host blocks, so many at a time."""
        count = max(TOGETHER_BYTES // self._block_bytes, 1)
        for start in range(0, len(blocks), count):
            some = torch.tensor(blocks[start : start + count], dtype=torch.int64)
            yield some.to(self._device, non_blocking=True), host_blocks[start : start + count]

    def _host_block(self, number: int) -> torch.Tensor:
        slab, place = divmod(number, self._per_slab)
        return self._slabs[slab][place * self._block_bytes :][: self._block_bytes]
