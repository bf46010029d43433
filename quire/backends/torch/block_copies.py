"""Copies whole KV blocks between a device and slots of host memory."""

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
    event is needed, and a slot may be read or overwritten by the next call.
    """

    def __init__(self, cache: DeviceKvCache, num_slots: int, device: Device) -> None:
        self.num_slots = num_slots
        self._layers = cache.blocks
        self._block_bytes = cache.layout.bytes_per_block
        self._device = device.torch_device
        self._per_slab = max(SLAB_BYTES // self._block_bytes, 1)
        self._slabs = [
            host_buffer(min(self._per_slab, num_slots - first) * self._block_bytes, device)
            for first in range(0, num_slots, self._per_slab)
        ]

    def save(self, blocks: Sequence[int], slots: Sequence[int]) -> None:
        """See BlockCopies."""
        for some, places in self._batches(blocks, slots):
            rows = torch.cat([layer.index_select(0, some) for layer in self._layers], dim=1)
            for row, slot in zip(rows, places, strict=True):
                self._slot(slot).copy_(row, non_blocking=True)

    def load(self, slots: Sequence[int], blocks: Sequence[int]) -> None:
        """See BlockCopies."""
        for some, places in self._batches(blocks, slots):
            rows = torch.empty(
                (len(places), self._block_bytes), dtype=torch.uint8, device=self._device
            )
            for row, slot in zip(rows, places, strict=True):
                row.copy_(self._slot(slot), non_blocking=True)
            parts = rows.split([layer.shape[1] for layer in self._layers], dim=1)
            for layer, part in zip(self._layers, parts, strict=True):
                layer.index_copy_(0, some, part)

    def _batches(
        self, blocks: Sequence[int], slots: Sequence[int]
    ) -> Iterator[tuple[torch.Tensor, Sequence[int]]]:
        """Blocks, on the device, and their slots, so many at a time."""
        count = max(TOGETHER_BYTES // self._block_bytes, 1)
        for start in range(0, len(blocks), count):
            some = torch.tensor(blocks[start : start + count], dtype=torch.int64)
            yield some.to(self._device, non_blocking=True), slots[start : start + count]

    def _slot(self, slot: int) -> torch.Tensor:
        slab, place = divmod(slot, self._per_slab)
        return self._slabs[slab][place * self._block_bytes :][: self._block_bytes]
