"""Places what op records point to: weights, vectors, orders; and keeps it alive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ctypes import pointer
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.backends.executable import LoadedWeights, StoredWeight
from quire.backends.native import abi as c
from quire.graph.buffers import BufferPlan
from quire.graph.ir import Node, Value
from quire.ops.column_order import ColumnOrder
from quire.ops.op import Float32
from quire.ops.quantize import RowFormat
from quire.quant.packed import PackedMatrix

__all__ = ["DTYPE_CODES", "ROW_DTYPES", "RecordWriter", "matrix_of"]

DTYPE_CODES = {
    "F32": c.F32, "F16": c.F16, "BF16": c.BF16, "F8_E4M3": c.FLOAT8,
    "INT4": c.INT4, "INT8": c.INT8, "TABLE4": c.TABLE4,
}  # fmt: skip
ROW_DTYPES: Mapping[RowFormat, int] = {"float32": c.F32, "bfloat16": c.BF16, "int8": c.INT8}


class RecordWriter:
    """Knows where values and weights stand; keeps alive all that a record points to."""

    def __init__(
        self, buffers: BufferPlan, weights: LoadedWeights, frequencies: tuple[Float32, ...]
    ) -> None:
        self._buffers = buffers
        self._weights = weights
        self._frequencies = frequencies
        self._vectors: dict[tuple[str, float], Float32] = {}
        self.kept: list[Any] = []
        self.expert_usage: dict[int, npt.NDArray[np.int64]] = {}
        self._layer = -1

    def blank(self, node: Node) -> Any:
        """A record with the places of a node's inputs and outputs, of no kind yet."""
        record, self._layer = c.Op(), node.layer
        for i, value in enumerate(node.inputs):
            record.inputs[i] = self._tensor(value)
        for i, value in enumerate(node.outputs):
            record.outputs[i] = self._tensor(value)
        for value in (*node.inputs, *node.outputs[:1]):
            if value.format != "float32":
                record.row_dtype = ROW_DTYPES[value.format]
        return record

    def matrix(self, name: str) -> Any:
        """A weight as it stands in memory."""
        weight = self._weights[name]
        matrix = matrix_of(weight)
        matrix.data = self._keep(weight).ctypes.data
        return matrix

    def vector(self, name: str, offset: float = 0.0) -> int:
        """The address of a float32 copy of a bias or norm weight, plus `offset`."""
        if (name, offset) not in self._vectors:
            values = np.ascontiguousarray(self._weights[name].float32())
            self._vectors[name, offset] = values + np.float32(offset) if offset else values
        return int(self._vectors[name, offset].ctypes.data)

    def ones(self, width: int) -> int:
        """The address of ones: the weight of a norm that has none."""
        self.kept.append(np.ones(width, np.float32))
        return int(self.kept[-1].ctypes.data)

    def joined(self, names: Sequence[str]) -> Float32:
        """Weights one after another on their first axis, as float32."""
        return np.concatenate([self._weights[name].float32() for name in names])

    def constants(self, values: Sequence[float] | Float32) -> int:
        """The address of some float32 numbers."""
        self.kept.append(np.array(values, np.float32, order="C"))
        return int(self.kept[-1].ctypes.data)

    def indices(self, values: tuple[int, ...]) -> int:
        """The address of some int32 numbers."""
        self.kept.append(np.array(values, np.int32))
        return int(self.kept[-1].ctypes.data)

    def order(self, order: ColumnOrder | None) -> int | None:
        """The address of an order of columns."""
        if order is None:
            return None
        self.kept.append(order.columns)
        return int(order.columns.ctypes.data)

    def order_of(self, name: str) -> int | None:
        """The address of the order in which a matrix has its columns."""
        weight = self._weights[name]
        return self.order(weight.order if isinstance(weight, PackedMatrix) else None)

    def usage_counts(self, num_experts: int) -> int:
        """The address where the tokens that this layer's experts meet are counted."""
        self.expert_usage[self._layer] = np.zeros(num_experts, np.int64)
        return int(self.expert_usage[self._layer].ctypes.data)

    def frequencies(self, table: int) -> int:
        """The address of a table of inverse frequencies and factors."""
        return int(self._frequencies[table].ctypes.data)

    def pointer_to(self, struct: Any) -> Any:
        """A pointer to a struct that lives as long as the records."""
        self.kept.append(struct)
        return pointer(struct)

    def _tensor(self, value: Value) -> Any:
        tensor = self._buffers.tensors[value]
        return c.Tensor(tensor.offset, tensor.stride, tensor.width)

    def _keep(self, weight: StoredWeight) -> np.ndarray[Any, Any]:
        data = weight.data
        if not data.flags.c_contiguous or data.ctypes.data % 4:
            data = np.ascontiguousarray(data).copy()
        self.kept.append(data)
        return data


def matrix_of(weight: StoredWeight) -> Any:
    """The record of a weight, which says everything of it but where it stands."""
    rows, cols = weight.shape
    matrix = c.Matrix(None, rows, cols, DTYPE_CODES[weight.dtype])
    if isinstance(weight, PackedMatrix):
        matrix.group_size, matrix.has_zero_points = weight.group_size, weight.has_zero_points
        matrix.has_minimums, matrix.exponent = weight.has_minimums, weight.exponent
        matrix.table[: len(weight.table)] = weight.table
    return matrix
