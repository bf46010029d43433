"""The weights of a model on a device."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch

from quire.backends.executable import LoadedWeights
from quire.backends.torch.arrays import as_tensor
from quire.backends.torch.devices import Device
from quire.backends.torch.matrix import Matrix, as_matrix
from quire.quant.packed import PackedMatrix

__all__ = ["Weights", "bytes_on_device", "product_dtype"]


class Weights:
    """Vectors in float32; matrices in the dtype of their products, or as codes.

    linears: the weights that may be multiplied in a narrow dtype; others, such as routers, are
    small and decide much.
    """

    def __init__(self, loaded: LoadedWeights, linears: Collection[str], device: Device) -> None:
        self._vectors: dict[str, torch.Tensor] = {}
        self._matrices: dict[str, Matrix] = {}
        for name, weight in loaded.items():
            if len(weight.shape) == 1:
                self._vectors[name] = as_tensor(weight.float32(), device.torch_device)
            else:
                wanted = product_dtype(weight.dtype, device) if name in linears else torch.float32
                self._matrices[name] = as_matrix(weight, wanted, device.torch_device)

    def vector(self, name: str) -> torch.Tensor:
        """A bias or the weight of a norm, float32; it may have been stored as one row."""
        if name not in self._vectors:
            self._vectors[name] = self._matrices[name].widened(slice(None)).float()
        return self._vectors[name]

    def matrix(self, name: str) -> Matrix:
        """A matrix."""
        return self._matrices[name]


def bytes_on_device(loaded: LoadedWeights, linears: Collection[str], device: Device) -> int:
    """What `Weights` will take, near enough to plan with."""
    total = 0
    for name, weight in loaded.items():
        if isinstance(weight, PackedMatrix):
            total += weight.data.nbytes
        else:
            wanted = product_dtype(weight.dtype, device) if name in linears else torch.float32
            total += math.prod(weight.shape) * wanted.itemsize
    return total


def product_dtype(stored: str, device: Device) -> torch.dtype:
    """In which dtype weights stored as F32, F16, BF16 or codes are multiplied on a device.

    On CPUs float32; elsewhere as narrow as they are, or float16 where there is no bfloat16.
    """
    if device.is_cpu or stored == "F32":
        return torch.float32
    if stored == "F16" or not device.has_bfloat16:
        return torch.float16
    return torch.bfloat16
