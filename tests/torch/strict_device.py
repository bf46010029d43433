"""A CPU that minds what a GPU would mind: nothing may wait for it unless it is told to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from quire.backends.torch.devices import Device, find_device

READS = (
    *("item", "tolist", "cpu", "numpy", "__array__", "nonzero", "unique"),
    *("__bool__", "__int__", "__float__", "__index__"),
)
"""Methods that bring numbers to the host, or need them there to know a shape."""
WAITING_OPS = {
    *("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal"),
    *("aten::_unique2", "aten::unique_dim", "aten::bincount", "aten::is_nonzero"),
}
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_"}
MASKS = (torch.bool, torch.uint8)


class Waits(AssertionError):
    """Something would have waited for the device."""


class _Watch(TorchDispatchMode):
    """Refuses what waits inside of torch, masks used as indices among it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name in WAITING_OPS:
            raise Waits(name)
        if name in INDEXING and any(each is not None and each.dtype in MASKS for each in args[1]):
            raise Waits(f"{name} with a mask")
        if name == "aten::repeat_interleave" and (kwargs or {}).get("output_size") is None:
            raise Waits(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def no_waiting() -> Iterator[None]:
    """Inside, what would wait for a device raises Waits."""
    with pytest.MonkeyPatch.context() as patch:
        for name in READS:
            patch.setattr(torch.Tensor, name, _refused(name))
        with _Watch():
            yield


def _refused(name: str) -> Any:
    def refuse(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        raise Waits(f"Tensor.{name}")

    return refuse


class _Stream:
    def __init__(self, device: torch.device | None = None) -> None:
        self.waited_for: list[_Stream] = []

    def wait_stream(self, other: _Stream) -> None:
        self.waited_for.append(other)


class _Event:
    """Comes when the stream that it was recorded on is behind what it copies."""

    def __init__(self) -> None:
        self.recorded: _Stream | None = None

    def record(self, stream: _Stream) -> None:
        assert stream.waited_for, "the copy does not wait for what it copies"
        self.recorded = stream

    def synchronize(self) -> None:
        assert self.recorded is not None


class Streams:
    """What torch.cuda offers, with everything done at once."""

    Stream = _Stream
    Event = _Event
    main = _Stream()

    @classmethod
    def current_stream(cls) -> _Stream:
        return cls.main

    @staticmethod
    def stream(stream: _Stream) -> Any:
        return nullcontext()


class StrictDevice(Device):
    """The CPU with streams."""

    streams = Streams  # type: ignore[assignment]


def strict_device() -> StrictDevice:
    device = StrictDevice(find_device("cpu").platform)
    assert device.has_float64  # once, which waits
    return device
