"""The tensors of a GGUF model under the names and in the order of rows that config.json implies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.errors import CheckpointError
from quire.models.places import Place
from quire.models.spec import Weight
from quire.quant.gguf_blocks.types import BLOCK_FORMATS
from quire.quant.matrix import QuantizedMatrix
from quire.weights.gguf.config import architecture_of
from quire.weights.gguf.model import GgufModel
from quire.weights.gguf.tensor_of_weight import TensorPart, find_parts
from quire.weights.part_of_tensor import part_of_matrix, refuse_part
from quire.weights.tensor import RawTensor

__all__ = ["GgufCheckpoint", "GgufMatrix"]


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

    Names are the spec's; a tensor that the architecture's table does not have keeps its own, and of
    a stack of experts each is a tensor.
    Rows that are stored for rotations of neighbours, (0, 1), (2, 3), …, come back in the order for
    rotations of halves, (0, D/2), (1, D/2 + 1), …, which moves whole rows and so no code.
    """

    def __init__(self, gguf: GgufModel) -> None:
        self.origin = gguf.origin
        self._gguf = gguf
        self._parts: Mapping[str, TensorPart] = find_parts(gguf, architecture_of(gguf))
        self.names = tuple(self._parts)

    def has(self, name: str) -> bool:
        """Say whether there is a tensor of this name."""
        return name in self._parts

    def is_quantized(self, name: str) -> bool:
        """Say whether a tensor is stored in blocks; raises CheckpointError if there is none."""
        part = self._find(name)
        return part.values is None and self._gguf.tensors[part.tensor].dtype in BLOCK_FORMATS

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor; raises CheckpointError if there is none."""
        part = self._find(name)
        shape = self._gguf.tensors[part.tensor].shape
        shape = shape if part.expert is None else shape[1:]
        shape = shape if part.rows is None else (part.rows[1] - part.rows[0], *shape[1:])
        shape = (math.prod(shape),) if part.flat else shape
        return (shape[0], 1, *shape[1:]) if part.unsqueezed else shape

    def tensor(self, name: str) -> RawTensor:
        """Return a tensor of plain numbers; raises CheckpointError for one in blocks."""
        part = self._find(name)
        tensor = self._gguf.tensors[part.tensor]
        if part.values is not None:
            return self._joined(name, part.tensor, part.values)
        if self.is_quantized(name):
            raise CheckpointError(
                f"{self.origin}: {tensor.name!r:.200} is stored as {tensor.dtype}, not as floats"
            )
        raw = RawTensor.from_bytes(
            name, tensor.dtype, self.shape(name), self._rows(name).reshape(-1)
        )
        if part.column_runs:
            raw = replace(raw, data=_regrouped(raw.data, part.column_runs, axis=1))
        if part.logarithm:
            return replace(raw, dtype="F32", data=np.log(-raw.float32()))
        if not part.offset:
            return raw
        return replace(raw, dtype="F32", data=raw.float32() - np.float32(part.offset))

    def matrix(self, name: str, most_rows: int | None = None) -> QuantizedMatrix:
        """Decode a quantized matrix, or its first rows.

        Raises CheckpointError for one that has not two axes.
        """
        tensor, shape = self._gguf.tensors[self._find(name).tensor], self.shape(name)
        if len(shape) != 2:
            raise CheckpointError(
                f"{self.origin}: {tensor.name!r:.200} has the shape {list(shape)}, "
                "a matrix has two axes"
            )
        matrix = BLOCK_FORMATS[tensor.dtype].matrix(name, self._rows(name)[:most_rows])
        runs = self._parts[name].column_runs
        return matrix if runs is None else self._with_columns(matrix, runs)

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
            tensor = self._gguf.tensors[self._find(place.name).tensor]
            shape = self.shape(place.name)
            if shape != tuple(place.shape):
                raise CheckpointError(
                    f"{self.origin}: {tensor.name!r:.200} has the shape {list(shape)}, the "
                    f"metadata say {list(place.shape)}"
                )
            refuse_part(place, f"{self.origin}: {tensor.name!r:.200} is stored as {tensor.dtype}")
            found[name] = GgufMatrix(name, place, tensor.dtype, self)
        return found

    def _find(self, name: str) -> TensorPart:
        if name not in self._parts:
            raise CheckpointError(f"{self.origin}: has no tensor {name!r:.200}")
        return self._parts[name]

    def _rows(self, name: str) -> npt.NDArray[np.uint8]:
        """The bytes of a tensor, [rows, bytes], in the order that the spec wants."""
        part = self._parts[name]
        tensor, raw = self._gguf.tensors[part.tensor], self._gguf.raw(part.tensor)
        if part.expert is not None:
            raw = raw.reshape(tensor.shape[0], -1)[part.expert]
        rows = raw.reshape(tensor.shape[0 if part.expert is None else 1], -1)
        if part.rows is not None:
            rows = rows[slice(*part.rows)]
        if part.row_runs:
            rows = _regrouped(rows, part.row_runs)
        if not part.heads:
            return rows
        if len(rows) % (2 * part.heads):
            raise CheckpointError(
                f"{self.origin}: {part.tensor!r} has {len(rows)} rows, which are not pairs in "
                f"{part.heads} heads"
            )
        pairs = rows.reshape(part.heads, len(rows) // part.heads // 2, 2, -1)
        return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(len(rows), -1)

    def _with_columns(self, matrix: QuantizedMatrix, runs: tuple[int, int]) -> QuantizedMatrix:
        """The matrix with its columns in another order, which must leave groups whole."""
        size = matrix.shape[1] // math.prod(runs)
        if size % matrix.group_size:
            raise CheckpointError(
                f"{self.origin}: {matrix.name!r} has value heads of {size} columns, which are not "
                f"whole groups of {matrix.group_size}"
            )
        minimums = matrix.minimums
        return replace(
            matrix,
            codes=_regrouped(matrix.codes, runs, axis=1),
            scales=_regrouped(matrix.scales, runs, axis=1),
            minimums=None if minimums is None else _regrouped(minimums, runs, axis=1),
        )

    def _joined(self, name: str, keys: str, values: str) -> RawTensor:
        """[H * (N + V), C]: of each head the rows that make its key, then those of its value."""
        of_keys, of_values = self._floats(keys), self._floats(values)
        heads, rank = of_keys.shape[0], of_keys.shape[1]
        if of_values.shape[::2] != (heads, rank):
            raise CheckpointError(
                f"{self.origin}: {keys!r} {list(of_keys.shape)} and {values!r} "
                f"{list(of_values.shape)} do not belong together"
            )
        both = np.concatenate([of_keys.swapaxes(1, 2), of_values], axis=1).reshape(-1, rank)
        return RawTensor(name, "F32", both.shape, both)

    def _floats(self, own: str) -> npt.NDArray[np.float32]:
        """A tensor of three axes as float32."""
        tensor = self._gguf.tensors[own]
        if len(tensor.shape) != 3:
            raise CheckpointError(
                f"{self.origin}: {own!r} has the shape {list(tensor.shape)}, not three axes"
            )
        raw = self._gguf.raw(own)
        if tensor.dtype in BLOCK_FORMATS:
            rows = raw.reshape(tensor.shape[0] * tensor.shape[1], -1)
            return BLOCK_FORMATS[tensor.dtype].matrix(own, rows).float32().reshape(tensor.shape)
        return RawTensor.from_bytes(own, tensor.dtype, tensor.shape, raw).float32()


def _regrouped(data: npt.NDArray[Any], runs: tuple[int, int], axis: int = 0) -> npt.NDArray[Any]:
    """n runs of m parts each as m runs of n: all first parts, then all second ones."""
    shape = data.shape
    if shape[axis] % math.prod(runs):
        raise CheckpointError(f"a tensor {list(shape)} is not {runs[0]} times {runs[1]} heads")
    parts = data.reshape(*shape[:axis], *runs, -1, *shape[axis + 1 :])
    return np.ascontiguousarray(parts.swapaxes(axis, axis + 1)).reshape(shape)
