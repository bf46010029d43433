"""Streams arrays from mapped files to a device, through a few buffers and nothing else.

Threads read ahead: each fills a buffer of pinned memory from the file's pages, which is where the
disk is waited for, while the device copies others by itself.  So the host needs no room for the
model, and reading, copying and what becomes of earlier arrays on the device overlap.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from quire.backends.torch.arrays import as_tensor
from quire.backends.torch.devices import Device
from quire.backends.torch.side_stream import Mark, SideStream, host_buffer

__all__ = ["BUFFER_BYTES", "NUM_BUFFERS", "stream_arrays"]

BUFFER_BYTES = 16 * 1024**2
NUM_BUFFERS = 6
READERS = 3
"""Threads: one alone reads cached pages more slowly than a device takes them."""

Bytes: TypeAlias = npt.NDArray[np.uint8]


def stream_arrays(arrays: Iterable[npt.NDArray[Any]], device: Device) -> Iterator[torch.Tensor]:
    """The bytes of each array [nbytes], uint8, on the device; in order.

    On a CPU the bytes are the array's own memory, where torch can share it.
    """
    if device.is_cpu:
        for array in arrays:
            yield as_tensor(_bytes_of(array), device.torch_device)
        return
    arrays = list(arrays)
    side = SideStream(device)
    with ThreadPoolExecutor(READERS, "quire-weights") as readers:
        ring = _Ring(arrays, device, readers)
        for array in arrays:
            yield _send(array, device, side, ring)


def _send(array: npt.NDArray[Any], device: Device, side: SideStream, ring: _Ring) -> torch.Tensor:
    """An array's bytes on the device; what is computed from now on may read them."""
    target = torch.empty(array.nbytes, dtype=torch.uint8, device=device.torch_device)
    side.wait_for_computation()  # which may still read what stood in this memory
    done = Mark()
    for start in range(0, array.nbytes, BUFFER_BYTES):
        part = target[start : start + BUFFER_BYTES]
        buffer = ring.filled()
        done = side.copy(part, buffer[: len(part)])
        ring.refill(buffer, done)
    side.hold_computation(done)
    return target


class _Ring:
    """Buffers that threads fill with the bytes of arrays, in their order."""

    def __init__(
        self, arrays: Sequence[npt.NDArray[Any]], device: Device, readers: ThreadPoolExecutor
    ) -> None:
        self._parts = _parts(arrays)
        self._readers = readers
        self._ahead: deque[Future[torch.Tensor]] = deque()
        num_parts = sum(-(-array.nbytes // BUFFER_BYTES) for array in arrays)
        for _ in range(min(NUM_BUFFERS, num_parts)):
            self.refill(host_buffer(BUFFER_BYTES, device), Mark())

    def filled(self) -> torch.Tensor:
        """The buffer with the next bytes."""
        return self._ahead.popleft().result()

    def refill(self, buffer: torch.Tensor, free: Mark) -> None:
        """Have a buffer filled, if anything is left, once the device is done with it."""
        part = next(self._parts, None)
        if part is not None:
            self._ahead.append(self._readers.submit(_fill, buffer, free, part))


def _fill(buffer: torch.Tensor, free: Mark, part: Bytes) -> torch.Tensor:
    free.wait()
    buffer.numpy()[: len(part)] = part
    return buffer


def _parts(arrays: Iterable[npt.NDArray[Any]]) -> Iterator[Bytes]:
    for array in arrays:
        for start in range(0, array.nbytes, BUFFER_BYTES):
            yield _bytes_of(array)[start : start + BUFFER_BYTES]


def _bytes_of(array: npt.NDArray[Any]) -> Bytes:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
