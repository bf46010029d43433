"""Records what a device is given to do, so that it can do it again at one call: CUDA graphs."""

from __future__ import annotations

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
    """Graphs of CUDA or ROCm, which share memory for what none of them leaves behind."""

    def __init__(self) -> None:
        self._pool: Any = None

    def record(self, compute: Callable[[], None]) -> Replay:
        """See Recorder."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            compute()
        self._pool = graph.pool()
        replay: Replay = graph.replay
        return replay


def find_recorder(device: Device) -> Recorder | None:
    """What records work on a device; None where nothing does."""
    return CudaGraphs() if device.platform.name == "cuda" else None
