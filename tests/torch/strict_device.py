"""A CPU that minds what a GPU would mind: nothing may wait for it unless it is told to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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
        self.is_behind = False

    def wait_stream(self, other: _Stream) -> None:
        self.is_behind = True


class _Event:
    """Comes when the stream that it was recorded on is behind what it copies."""

    def record(self) -> None:
        assert Streams.current.is_behind, "the copy does not wait for what it copies"

    def synchronize(self) -> None:
        pass


class Streams:
    """What torch.cuda offers, with everything done at once."""

    Stream = _Stream
    Event = _Event
    current = _Stream()

    @classmethod
    def current_stream(cls, device: torch.device | None = None) -> _Stream:
        return cls.current

    @classmethod
    @contextmanager
    def stream(cls, stream: _Stream) -> Iterator[None]:
        before, cls.current = cls.current, stream
        yield
        cls.current = before


class _Tape(TorchDispatchMode):
    """Notes every call of torch, and does those again that made something."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[torch.Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        read = {_memory(each) for each in tree_leaves((args, kwargs)) if _is_tensor(each)}
        made = [each for each in tree_leaves(result) if _is_tensor(each)]
        if func._schema.is_mutable:
            self.calls.append((func, args, kwargs, []))
        elif made and "empty" not in func._schema.name:
            new = [each for each in made if _memory(each) not in read]  # others are views
            if new:
                assert len(new) == len(made)
                self.calls.append((func, args, kwargs, new))
        return result

    def spoil(self) -> None:
        """Whoever reads what was made on recording, and not by a replay, shall notice."""
        for *_, made in self.calls:
            for each in made:
                each.fill_(torch.nan if each.is_floating_point() else 1)

    def replay(self) -> None:
        for func, args, kwargs, made in self.calls:
            result = func(*args, **(kwargs or {}))
            for old, new in zip(made, tree_leaves(result) if made else (), strict=True):
                old.copy_(new)


def _is_tensor(each: Any) -> bool:
    return isinstance(each, torch.Tensor)


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class Recordings:
    """A Recorder for the CPU, as strict as a CUDA graph: what is recorded may wait for nothing,
    is there only after a replay, and a replay knows no tensors but those of the recording."""

    def __init__(self) -> None:
        self.tapes: list[_Tape] = []
        self.num_replays = 0

    def record(self, compute: Callable[[], None]) -> Callable[[], None]:
        tape = _Tape()
        with no_waiting(), tape:
            compute()
        tape.spoil()
        self.tapes.append(tape)

        def replay() -> None:
            self.num_replays += 1
            tape.replay()

        return replay


class StrictDevice(Device):
    """The CPU with streams."""

    streams = Streams  # type: ignore[assignment]


def strict_device() -> StrictDevice:
    device = StrictDevice(find_device("cpu").platform)
    assert device.has_float64  # once, which waits
    return device
