"""The tensors of a GGUF model under the names and in the order of rows that config.json implies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quire.errors import CheckpointError
from quire.models.places import Place
from quire.models.spec import Weight
from quire.quant.gguf_blocks.types import BLOCK_FORMATS
from quire.quant.matrix import QuantizedMatrix
from quire.weights.gguf.architectures import Architecture
from quire.weights.gguf.config import ROPE_FACTORS, architecture_of
from quire.weights.gguf.model import GgufModel
from quire.weights.part_of_tensor import part_of_matrix, refuse_part
from quire.weights.tensor import RawTensor

__all__ = ["GgufCheckpoint", "GgufMatrix"]

OF_LAYER = re.compile(r"blk\.(\d+)\.(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class GgufMatrix:
    """A quantized matrix of a file, to be decoded when it is read.

    place: the part of a tensor that it is.  label: its format, for people.
    """

    name: str
    place: Place
    label: str
    checkpoint: GgufCheckpoint

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, cols)."""
        return self.place.part_shape

    @property
    def sources(self) -> tuple[str, ...]:
        """The one tensor."""
        return (self.place.name,)

    def sample(self, rows: int) -> QuantizedMatrix:
        """The first rows of its tensor."""
        return self.checkpoint.matrix(self.place.name, rows)

    def read(self) -> QuantizedMatrix:
        """Decode it, and what shares its tensor."""
        return part_of_matrix(self.checkpoint.matrix(self.place.name), self.place)


class GgufCheckpoint:
    """A Checkpoint whose tensors may be quantized matrices.

    Names are the spec's; a tensor that the architecture's table does not have keeps its own.
    Rows that are stored for rotations of neighbours, (0, 1), (2, 3), …, come back in the order for
    rotations of halves, (0, D/2), (1, D/2 + 1), …, which moves whole rows and so no code.
    """

    def __init__(self, gguf: GgufModel) -> None:
        self.origin = gguf.origin
        self._gguf = gguf
        architecture = architecture_of(gguf)
        self._heads = _heads(gguf, architecture)
        known = {_name(own, architecture): own for own in gguf.tensors if own != ROPE_FACTORS}
        self._own_name: Mapping[str, str] = known
        self.names = tuple(known)

    def has(self, name: str) -> bool:
        """Say whether there is a tensor of this name."""
        return name in self._own_name

    def is_quantized(self, name: str) -> bool:
        """Say whether a tensor is stored in blocks; raises CheckpointError if there is none."""
        return self._gguf.tensors[self._own(name)].dtype in BLOCK_FORMATS

    def tensor(self, name: str) -> RawTensor:
        """Return a tensor of plain numbers; raises CheckpointError for one in blocks."""
        tensor = self._gguf.tensors[self._own(name)]
        if self.is_quantized(name):
            raise CheckpointError(
                f"{self.origin}: {tensor.name!r:.200} is stored as {tensor.dtype}, not as floats"
            )
        return RawTensor.from_bytes(name, tensor.dtype, tensor.shape, self._rows(name).reshape(-1))

    def matrix(self, name: str, most_rows: int | None = None) -> QuantizedMatrix:
        """Decode a quantized matrix, or its first rows.

        Raises CheckpointError for one that has not two axes.
        """
        tensor = self._gguf.tensors[self._own(name)]
        if len(tensor.shape) != 2:
            raise CheckpointError(
                f"{self.origin}: {tensor.name!r:.200} has the shape {list(tensor.shape)}, "
                "a matrix has two axes"
            )
        return BLOCK_FORMATS[tensor.dtype].matrix(name, self._rows(name)[:most_rows])

    def matrices(self, wanted: Mapping[str, Weight]) -> dict[str, GgufMatrix]:
        """Those of the wanted weights that are quantized here.

        Raises CheckpointError for one of another shape, and for one that cannot be taken out of the
        tensor that it is a part of.
        """
        found = {}
        for name, weight in wanted.items():
            place = next((each for each in weight.places if self.has(each.name)), None)
            if place is None or not self.is_quantized(place.name):
                continue
            tensor = self._gguf.tensors[self._own(place.name)]
            if tensor.shape != tuple(place.shape):
                raise CheckpointError(
                    f"{self.origin}: {tensor.name!r:.200} has the shape {list(tensor.shape)}, the "
                    f"metadata say {list(place.shape)}"
                )
            refuse_part(place, f"{self.origin}: {tensor.name!r:.200} is stored as {tensor.dtype}")
            found[name] = GgufMatrix(name, place, tensor.dtype, self)
        return found

    def _own(self, name: str) -> str:
        if name not in self._own_name:
            raise CheckpointError(f"{self.origin}: has no tensor {name!r:.200}")
        return self._own_name[name]

    def _rows(self, name: str) -> npt.NDArray[np.uint8]:
        """The bytes of a tensor, [rows, bytes], in the order that the spec wants."""
        own = self._own(name)
        shape, raw = self._gguf.tensors[own].shape, self._gguf.raw(own)
        if own not in self._heads:
            return raw.reshape(shape[0], -1)
        heads = self._heads[own]
        if shape[0] % (2 * heads):
            raise CheckpointError(
                f"{self.origin}: {own!r} has {shape[0]} rows, which are not pairs in {heads} heads"
            )
        pairs = raw.reshape(heads, shape[0] // heads // 2, 2, -1)
        return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(shape[0], -1)


def _name(own: str, architecture: Architecture) -> str:
    """The spec's name for a tensor; its own if the table has none."""
    stem, dot, ending = own.rpartition(".")
    if match := OF_LAYER.fullmatch(stem):
        module = architecture.tensors_of_layer.get(match[2])
        return f"model.layers.{match[1]}.{module}{dot}{ending}" if module else own
    module = architecture.tensors.get(stem)
    return f"{module}{dot}{ending}" if module else own


def _heads(gguf: GgufModel, architecture: Architecture) -> dict[str, int]:
    """Tensor whose rows are to be turned → its heads."""
    found = {}
    for own in gguf.tensors:
        match = OF_LAYER.fullmatch(own.rpartition(".")[0])
        if match and match[2] in architecture.turned:
            found[own] = _count(gguf, architecture.turned[match[2]])
    return found


def _count(gguf: GgufModel, key: str) -> int:
    """A number of heads; of key and value heads there are as many as of others by default."""
    prefix = f"{gguf.metadata['general.architecture']}."
    default = gguf.metadata.get(prefix + "attention.head_count")
    count = gguf.metadata.get(prefix + key, default)
    if type(count) is not int or count < 1:
        raise CheckpointError(f"{gguf.origin}: {prefix}{key} is {count!r:.80}, not a number")
    return count
