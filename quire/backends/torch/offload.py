"""Matrices of some layers that stay in host memory and come to the device when their layer does.

Two buffers on the device take turns: while one layer computes, the next one that is not there is
copied into the other, on a stream of its own.  The first touch of a layer's matrix is what starts
the copy of the next, so nobody has to announce layers, and an order that nobody foresaw is slow but
right.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

from quire.backends.torch.devices import Device
from quire.backends.torch.host_memory import HostMemory
from quire.backends.torch.matrix import Matrix
from quire.backends.torch.side_stream import Mark, SideStream

__all__ = ["OffloadedWeights"]

ALIGNMENT = 512
"""Of tensors in a buffer, as torch's own allocator has it."""
NOWHERE = -1


@dataclass(slots=True)
class _Layer:
    """Matrices, and where in a buffer each of their tensors begins; start: in host memory.

    The tensors of the matrices are empty ones of their shapes: they say what to view.
    """

    start: int
    num_bytes: int = 0
    matrices: dict[str, tuple[Matrix, dict[str, int]]] = field(default_factory=dict)


class OffloadedWeights:
    """Matrices by name, of which two layers at a time are on the device.

    layers: the names of each layer's, in the order in which layers compute.  Matrices are added
    layer by layer in that order; what a `find` returns is good until another layer's is found.
    """

    def __init__(self, device: Device, layers: Sequence[Collection[str]]) -> None:
        self._layer_of = {name: at for at, names in enumerate(layers) for name in names}
        self._layers = [_Layer(0) for _ in layers]
        self._device = device
        self._host = HostMemory(device)
        self._side = SideStream(device)
        self._buffers: list[torch.Tensor] = []
        self._inside, self._marks = [NOWHERE, NOWHERE], [Mark(), Mark()]
        self._views: dict[tuple[str, int], Matrix] = {}
        self._current = 0  # the buffer whose layer computes
        self._copy_s = 0.0

    def has(self, name: str) -> bool:
        """Whether a matrix is one of these."""
        return name in self._layer_of

    def add(self, name: str, matrix: Matrix) -> None:
        """Move a matrix, which is on the device, to host memory."""
        layer = self._layers[self._layer_of[name]]
        if not layer.matrices:
            layer.start = self._host.num_bytes
        assert layer.start + layer.num_bytes == self._host.num_bytes, "layers come one by one"
        places, shapes = {}, {}
        for part, tensor in _tensors(matrix).items():
            places[part] = layer.num_bytes
            tensor = _dense(tensor)
            data = tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)
            padding = data.new_zeros(-len(data) % ALIGNMENT)
            self._host.append(torch.cat([data, padding]) if len(padding) else data)
            layer.num_bytes = self._host.num_bytes - layer.start
            shapes[part] = tensor.to("meta")
        layer.matrices[name] = replace(matrix, **shapes), places  # type: ignore[type-var]

    def finish(self) -> None:
        """Take the buffers, fill the first, and see how long that takes."""
        size = max(layer.num_bytes for layer in self._layers)
        self._buffers = [
            torch.empty(size, dtype=torch.uint8, device=self._device.torch_device) for _ in range(2)
        ]
        for _ in range(2):  # the first time is slower than those to come
            started = time.perf_counter()
            self._fetch(0, 0)
            self._marks[0].wait()
            self._copy_s = time.perf_counter() - started

    def find(self, name: str) -> Matrix:
        """A matrix on the device; what is computed from now on may read it."""
        layer = self._layer_of[name]
        if self._inside[self._current] != layer:
            self._enter(layer)
        key = name, self._current
        if key not in self._views:
            self._views[key] = self._viewed(name, self._buffers[self._current])
        return self._views[key]

    @property
    def line(self) -> str:
        """How much is where and what it costs, for people."""
        total = self._host.num_bytes
        rate = self._layers[0].num_bytes / max(self._copy_s, 1e-9)
        return (
            f"offload: matrices of {len(self._layers)} layers, {total / 2**20:,.1f} MiB, stay in "
            f"host memory; every step copies them, which takes {total / rate * 1e3:,.1f} ms at the "
            f"{rate / 1e9:,.1f} GB/s seen at the start, less what computes meanwhile"
        )

    def _enter(self, layer: int) -> None:
        """Make a layer the one that computes, and start to copy the next."""
        if layer not in self._inside:
            self._fetch(layer, 1 - self._current)
        self._current = self._inside.index(layer)
        self._side.hold_computation(self._marks[self._current])
        following = (layer + 1) % len(self._layers)
        if following not in self._inside:
            self._fetch(following, 1 - self._current)

    def _fetch(self, layer: int, place: int) -> None:
        """Copy a layer into a buffer, once what was computed from it is over."""
        self._side.wait_for_computation()
        found, buffer = self._layers[layer], self._buffers[place]
        for at, part in self._host.parts(found.start, found.start + found.num_bytes):
            self._marks[place] = self._side.copy(buffer[at : at + len(part)], part)
        self._inside[place] = layer

    def _viewed(self, name: str, buffer: torch.Tensor) -> Matrix:
        matrix, places = self._layers[self._layer_of[name]].matrices[name]
        views = {}
        for part, shape in _tensors(matrix).items():
            data = buffer[places[part] : places[part] + shape.numel() * shape.itemsize]
            views[part] = data.view(shape.dtype).as_strided(shape.shape, shape.stride())
        return replace(matrix, **views)  # type: ignore[type-var]


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor without gaps in memory, in the order in which it stands if that has none."""
    if tensor.is_contiguous() or (tensor.ndim == 2 and tensor.T.is_contiguous()):
        return tensor
    return tensor.contiguous()


def _tensors(matrix: Matrix) -> dict[str, Any]:
    """The tensors that a matrix is made of, by field."""
    found = {each.name: getattr(matrix, each.name) for each in fields(matrix)}  # type: ignore[arg-type]
    return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
