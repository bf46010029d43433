"""Records what a device is given to do, so that it can do it again at one call: CUDA graphs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import torch

from quire.backends.torch.devices import Device

__all__ = ["CudaGraphs", "Recorder", "Replay", "find_recorder"]

Replay: TypeAlias = Callable[[], object]


class Recorder(Protocol):
    """Records work over tensors that stay where they are."""

    def record(self, compute: Callable[[], None]) -> Replay:
        """What does again what `compute` does; recording itself need not do it.

        `compute` was run before, waits for nothing, and reads nothing of the host.
        """
        ...


class CudaGraphs:
    """Graphs of CUDA or ROCm, which share memory for what none of them leaves behind.

    torch.cuda.graph would give what torch keeps free back to the device before each: that was
    taken at start for the values of steps, and there are hundreds of graphs.
    """

    def __init__(self, device: Device) -> None:
        self._device = device.torch_device
        self._stream = torch.cuda.Stream(self._device)
        self._pool: Any = None

    def record(self, compute: Callable[[], None]) -> Replay:
        """See Recorder."""
        graph = torch.cuda.CUDAGraph()
        now = torch.cuda.current_stream(self._device)
        torch.cuda.synchronize(self._device)  # while nothing is captured, memory may be freed
        self._stream.wait_stream(now)
        with torch.cuda.stream(self._stream):
            graph.capture_begin(self._pool, capture_error_mode="thread_local")
            try:
                compute()
            except BaseException:
                with contextlib.suppress(RuntimeError):  # what went wrong is told, not this
                    graph.capture_end()
                raise
            graph.capture_end()
        now.wait_stream(self._stream)
        self._pool = graph.pool()
        replay: Replay = graph.replay
        return replay


def find_recorder(device: Device) -> Recorder | None:
    """What records work on a device; None where nothing does."""
    return CudaGraphs(device) if device.captures else None
