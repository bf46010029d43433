"""The weights of a model on a device."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch

from quire.backends.executable import LoadedWeights, StoredWeight
from quire.backends.torch.devices import Device
from quire.backends.torch.dummy import dummy_bytes, dummy_codes
from quire.backends.torch.matrix import Matrix, coded_matrix, floats_of, matrix_of
from quire.backends.torch.offload import OffloadedWeights
from quire.backends.torch.unpack import Unpacked
from quire.backends.torch.weight_stream import stream_arrays
from quire.quant.dummy import DummyMatrix, DummyTensor
from quire.quant.packed import PackedMatrix

__all__ = ["Weights", "product_dtype", "sizes_on_device"]


class Weights:
    """Vectors in float32; matrices in the dtype of their products, or as codes.

    linears: the weights that may be multiplied in a narrow dtype; others, such as routers, are
    small and decide much.  offloaded: the names of matrices that stay in host memory, by layer; see
    OffloadedWeights.
    """

    def __init__(
        self,
        loaded: LoadedWeights,
        linears: Collection[str],
        device: Device,
        offloaded: Sequence[Collection[str]] = (),
    ) -> None:
        self._vectors: dict[str, torch.Tensor] = {}
        self._matrices: dict[str, Matrix] = {}
        self._offloaded = OffloadedWeights(device, offloaded) if offloaded else None
        for name, weight, found in _arriving(_layer_by_layer(loaded, offloaded), device):
            if len(weight.shape) == 1:
                assert isinstance(found, torch.Tensor)
                self._vectors[name] = floats_of(weight, found).float()
                continue
            wanted = product_dtype(weight.dtype, device) if name in linears else torch.float32
            matrix = _matrix(weight, found, wanted)
            if self._offloaded is not None and self._offloaded.has(name):
                self._offloaded.add(name, matrix)
            else:
                self._matrices[name] = matrix
        if self._offloaded is not None:
            self._offloaded.finish()

    def vector(self, name: str) -> torch.Tensor:
        """A bias or the weight of a norm, float32; it may have been stored as one row."""
        if name not in self._vectors:
            self._vectors[name] = self.matrix(name).widened(slice(None)).float().clone()
        return self._vectors[name]

    def matrix(self, name: str) -> Matrix:
        """A matrix."""
        if self._offloaded is not None and self._offloaded.has(name):
            return self._offloaded.find(name)
        return self._matrices[name]

    @property
    def offload(self) -> OffloadedWeights | None:
        """What stays in host memory, if anything does."""
        return self._offloaded


def sizes_on_device(
    loaded: LoadedWeights, linears: Collection[str], device: Device
) -> Mapping[str, int]:
    """Bytes that each of `Weights` will take, near enough to plan with."""
    return {
        name: _size(weight, product_dtype(weight.dtype, device) if name in linears else None)
        for name, weight in loaded.items()
    }


def product_dtype(stored: str, device: Device) -> torch.dtype:
    """In which dtype weights stored as F32, F16, BF16 or codes are multiplied on a device.

    On CPUs float32; elsewhere as narrow as they are, or float16 where there is no bfloat16.
    """
    if device.is_cpu or stored == "F32":
        return torch.float32
    if stored == "F16" or not device.has_bfloat16:
        return torch.float16
    return torch.bfloat16


def _size(weight: StoredWeight, dtype: torch.dtype | None) -> int:
    if isinstance(weight, PackedMatrix):
        return weight.data.nbytes
    if isinstance(weight, DummyMatrix):
        return weight.nbytes
    size: int = math.prod(weight.shape) * (dtype or torch.float32).itemsize
    return size


def _arriving(
    weights: Mapping[str, StoredWeight], device: Device
) -> Iterator[tuple[str, StoredWeight, torch.Tensor | Unpacked]]:
    """Each weight, and what is of it on the device: its bytes, or codes made up there."""
    made_there = DummyTensor | DummyMatrix
    stored = [each.data for each in weights.values() if not isinstance(each, made_there)]
    streamed = stream_arrays(stored, device)
    for name, weight in weights.items():
        if isinstance(weight, DummyMatrix):
            yield name, weight, dummy_codes(weight, device)
        elif isinstance(weight, DummyTensor):
            yield name, weight, dummy_bytes(weight, device)
        else:
            yield name, weight, next(streamed)
    assert next(streamed, None) is None  # which ends its threads


def _matrix(weight: StoredWeight, found: torch.Tensor | Unpacked, dtype: torch.dtype) -> Matrix:
    if isinstance(found, torch.Tensor):
        return matrix_of(weight, found, dtype)
    assert isinstance(weight, DummyMatrix)
    return coded_matrix(weight.like, found, dtype)


def _layer_by_layer(
    loaded: LoadedWeights, layers: Sequence[Collection[str]]
) -> dict[str, StoredWeight]:
    """All weights; those of layers one layer after the other."""
    of_layers = {name: loaded[name] for names in layers for name in names if name in loaded}
    return {**of_layers, **{name: each for name, each in loaded.items() if name not in of_layers}}
