"""The weights of a model on a device."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import torch

from quire.backends.executable import LoadedWeights, StoredWeight
from quire.backends.torch.devices import Device
from quire.backends.torch.matrix import Matrix, floats_of, matrix_of
from quire.backends.torch.offload import OffloadedWeights
from quire.backends.torch.weight_stream import stream_arrays
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
        weights = _layer_by_layer(loaded, offloaded)
        data = stream_arrays((weight.data for weight in weights.values()), device)
        for (name, weight), (_, found) in zip(weights.items(), data, strict=True):
            if len(weight.shape) == 1:
                self._vectors[name] = floats_of(weight, found).float()
                continue
            wanted = product_dtype(weight.dtype, device) if name in linears else torch.float32
            matrix = matrix_of(weight, found, wanted)
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
    size: int = math.prod(weight.shape) * (dtype or torch.float32).itemsize
    return size


def _layer_by_layer(
    loaded: LoadedWeights, layers: Sequence[Collection[str]]
) -> dict[str, StoredWeight]:
    """All weights; those of layers one layer after the other."""
    of_layers = {name: loaded[name] for names in layers for name in names}
    return {**of_layers, **{name: each for name, each in loaded.items() if name not in of_layers}}
