"""Devices with memory and streams of their own, made up on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch

from quire.backends.torch import offload, weight_stream
from quire.backends.torch.devices import PLATFORMS, Device

__all__ = ["Accelerator", "LazySide", "make_lazy"]


class Accelerator(Device):
    """A device that is no CPU to Quire: with memory of its own, and narrow products."""

    is_cpu = False

    def __init__(self, has_bfloat16: bool) -> None:
        super().__init__(PLATFORMS[-1])
        self.__dict__["has_bfloat16"] = has_bfloat16


class LazyMark:
    """Waits by doing what was put off."""

    def __init__(self, pass_by: Callable[[], None] = lambda: None) -> None:
        self.wait = pass_by


class LazySide:
    """A stream whose copies are made at the last moment: when somebody waits for them.

    What is wrongly overwritten or read before a wait is then seen in the results.
    """

    def __init__(self, device: Device) -> None:
        self._queue: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._lock = threading.Lock()
        self.num_copies = 0

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> LazyMark:
        with self._lock:
            self._queue.append((target, source))
            self.num_copies += 1
            last = self.num_copies
        return LazyMark(lambda: self._run(last))

    def wait_for_computation(self) -> None:
        """Computation on the CPU is over when it was called."""

    def hold_computation(self, mark: LazyMark) -> None:
        mark.wait()

    def _run(self, last: int) -> None:
        with self._lock:
            while self._queue and self.num_copies - len(self._queue) < last:
                target, source = self._queue.pop(0)
                target.copy_(source)


def make_lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let weights be copied as LazySide does."""
    for module in (weight_stream, offload):
        monkeypatch.setattr(module, "SideStream", LazySide)
