"""Runs one op record of the native library on numpy arrays.

Every input and output lies as a column range in a wider buffer whose other cells hold a NaN
pattern: an op that reads past its view spoils its result, one that writes past it fails
`check_untouched`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from quire.backends.native import abi as c
from quire.backends.native import library
from quire.backends.native.record_writer import matrix_of
from quire.backends.native.tuning import Tunings, tuning_records
from quire.ops.kv_codes import to_codes
from quire.quant.packed import PackedMatrix
from tests.native import numbers

POISON = np.uint32(0x7FC0BEEF)
BEFORE, AFTER = 3, 5  # floats beside each view


@dataclass
class Cache:
    """A KV arena of one layer, filled with NaN."""

    num_blocks: int
    block_tokens: int
    kv_heads: int
    head_dim: int
    dtype: int = c.F32
    pad_bytes: int = 64
    layer_offset: int = 128

    def __post_init__(self) -> None:
        self.number = (np.float32, np.float16, np.uint16, *3 * (np.uint8,))[self.dtype]
        per_dim = self.kv_heads * self.block_tokens * np.dtype(self.number).itemsize
        self.format = {c.KV_INT8: "int8", c.KV_FLOAT8: "fp8", c.KV_INT4: "int4"}.get(self.dtype, "")
        even, half = self.head_dim + self.head_dim % 2, (self.head_dim + 1) // 2
        self.key_dims = {"int8": even, "int4": half}.get(self.format, self.head_dim)
        self.value_dims = half if self.format == "int4" else self.head_dim
        self.key_bytes, self.value_bytes = per_dim * self.key_dims, per_dim * self.value_dims
        self.num_facts = {"": 0, "int4": 2}.get(self.format, 1)  # of a key, or of a value
        self.fact_bytes = 2 * 4 * per_dim * self.num_facts
        used = self.key_bytes + self.value_bytes + self.fact_bytes
        self.block_bytes = used + self.pad_bytes
        size = self.layer_offset + self.num_blocks * self.block_bytes
        self.bytes = np.full(size, 0xFF, np.uint8)  # NaN in every format, or a scale of NaN
        self.offsets = np.array([self.layer_offset], np.int64)
        self.strides = np.array([self.block_bytes], np.int64)

    def keys(self, block: int) -> np.ndarray[Any, Any]:
        """View [K, D, B] of one block's keys; in int8 [K, D / 2, B, 2], in int4 [K, D / 2, B]."""
        keys = self._view(block, 0, self.key_bytes, self.number)
        if self.format == "int8":
            return keys.reshape(self.kv_heads, self.key_dims // 2, self.block_tokens, 2)
        return keys.reshape(self.kv_heads, self.key_dims, self.block_tokens)

    def values(self, block: int) -> np.ndarray[Any, Any]:
        """View [K, B, D] of one block's values; in int4 [K, B, D / 2]."""
        shape = (self.kv_heads, self.block_tokens, self.value_dims)
        return self._view(block, self.key_bytes, self.value_bytes, self.number).reshape(shape)

    def facts(self, block: int) -> np.ndarray[Any, Any]:
        """View [1, 2, K, B] of the scales of one block's keys and of its values.

        In int4 [2, 2, K, B]: their minimums follow.
        """
        facts = self._view(block, self.key_bytes + self.value_bytes, self.fact_bytes, np.float32)
        return facts.reshape(self.num_facts, 2, self.kv_heads, self.block_tokens)

    def write(self, block: int, offset: int, keys: Any, values: Any) -> None:
        """Store one token's keys and values, each [K, D] float32."""
        if not self.format:
            self.keys(block)[:, :, offset] = numbers.store(keys, self.dtype)
            self.values(block)[:, offset] = numbers.store(values, self.dtype)
            return
        facts, odd = self.facts(block), ((0, 0), (0, self.head_dim % 2))
        (keys, facts[:, 0, :, offset]), (values, facts[:, 1, :, offset]) = (
            to_codes(each, self.format) for each in (keys, values)
        )
        if self.format == "int8":
            keys = np.pad(keys, odd).reshape(self.kv_heads, -1, 2)
        if self.format == "int4":
            pairs = (np.pad(each, odd) for each in (keys, values))
            keys, values = (each[:, ::2] + 16 * each[:, 1::2] for each in pairs)
        self.keys(block)[:, :, offset], self.values(block)[:, offset] = keys, values

    def _view(self, block: int, start: int, size: int, number: Any) -> np.ndarray[Any, Any]:
        start += self.layer_offset + block * self.block_bytes
        return self.bytes[start : start + size].view(number)


@dataclass
class Batch:
    """The step arrays; what an op does not need may stay empty."""

    token_ids: Any = ()
    positions: Any = ()
    rope_rows: Any = ()
    query_start: Any = ()
    block_tables: Any = ((),)
    logit_rows: Any = ()
    states: Any = ()
    given_rows: Any = None
    axis_positions: Any = None
    kept: list[Any] = field(default_factory=list)

    def step(self, num_tokens: int) -> c.Step:
        """As the C struct."""
        step = c.Step(num_tokens=num_tokens)
        for name in ("token_ids", "positions", "rope_rows", "query_start", "logit_rows"):
            array = np.ascontiguousarray(getattr(self, name), np.int32)
            self.kept.append(array)
            setattr(step, name, array.ctypes.data)
        tables = np.ascontiguousarray(self.block_tables, np.int32)
        self.kept.append(tables)
        step.block_tables, step.block_table_stride = tables.ctypes.data, tables.shape[1]
        states = np.ascontiguousarray(self.states, np.int32)
        self.kept.append(states)
        step.state_uses = states.ctypes.data
        step.num_requests = max(0, len(self.query_start) - 1)
        step.num_logit_rows = len(self.logit_rows)
        for name, number in (("given_rows", np.float32), ("axis_positions", np.int32)):
            if getattr(self, name) is not None:
                array = np.ascontiguousarray(getattr(self, name), number)
                self.kept.append(array)
                setattr(step, name, array.ctypes.data)
        step.num_given_rows = 0 if self.given_rows is None else len(self.given_rows)
        return step


class Arena:
    """Buffers side by side in one array, each a view with poison around it."""

    def __init__(self) -> None:
        self._pieces: list[np.ndarray[Any, Any]] = []
        self._size = 0

    def add(self, rows: int, cols: int, values: np.ndarray[Any, Any] | None = None) -> c.Tensor:
        """Reserve a view; it holds values, or poison."""
        stride = BEFORE + cols + AFTER
        buffer = np.full((rows, stride), POISON, np.uint32)
        if values is not None:
            buffer[:, BEFORE : BEFORE + cols] = np.ascontiguousarray(values, np.float32).view(
                np.uint32
            )
        tensor = c.Tensor(self._size + BEFORE, stride, cols)
        self._pieces.append(buffer.reshape(-1))
        self._size += buffer.size
        return tensor

    def freeze(self) -> None:
        """Lay the buffers out; no more can be added."""
        self.floats = np.concatenate(self._pieces).view(np.float32)
        self._before = self.floats.copy()

    def read(self, tensor: c.Tensor, rows: int) -> np.ndarray[Any, Any]:
        """What a view holds now."""
        start = tensor.offset - BEFORE
        buffer = self.floats[start : start + rows * tensor.stride].reshape(rows, tensor.stride)
        return buffer[:, BEFORE : BEFORE + tensor.cols].copy()

    def check_untouched(self, *outputs: tuple[c.Tensor, int]) -> None:
        """Assert that only the given views have changed."""
        same = self.floats.view(np.uint32) == self._before.view(np.uint32)
        for tensor, rows in outputs:
            start = tensor.offset - BEFORE
            view = same[start : start + rows * tensor.stride].reshape(rows, tensor.stride)
            view[:, BEFORE : BEFORE + tensor.cols] = True
        assert same.all(), "wrote outside of its outputs"


def add_part(
    op: c.Op,
    weight: np.ndarray[Any, Any],
    dtype: int,
    bias: np.ndarray[Any, Any] | None = None,
    offset: int = 0,
) -> None:
    """Give an op one more weight matrix, `offset` bytes (a multiple of 4) off an aligned address.

    weight: float32 (F32), float16 (F16) or bfloat16 bits as uint16 (BF16).
    """
    _add_matrix(op, weight, c.Matrix(None, *weight.shape, dtype), bias, offset)


def add_packed_part(
    op: c.Op, weight: PackedMatrix, bias: np.ndarray[Any, Any] | None = None, offset: int = 0
) -> None:
    """Give an op one more matrix of packed integers."""
    _add_matrix(op, weight.data, matrix_of(weight), bias, offset)


def _add_matrix(
    op: c.Op, data: np.ndarray[Any, Any], matrix: c.Matrix, bias: Any, offset: int
) -> None:
    raw = np.ascontiguousarray(data).view(np.uint8).reshape(-1)
    memory = np.empty(raw.size + 64 + offset, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    memory[start : start + raw.size] = raw
    matrix.data = memory.ctypes.data + start
    op.parts[op.num_parts] = matrix
    op.vectors[op.num_parts] = address(bias)
    op.num_parts += 1
    keep(op, memory, bias)


def keep(op: c.Op, *owners: Any) -> None:
    """Keep alive what a record points to."""
    op.kept = [*getattr(op, "kept", []), *owners]


def address(array: np.ndarray[Any, Any] | None) -> int | None:
    """Where an array's data begin, or None."""
    return None if array is None else array.ctypes.data


def run(*arguments: Any, **options: Any) -> list[np.ndarray[Any, Any]]:
    """The outputs of `try_run`, which has these arguments; raises EngineError where it fails."""
    status, outputs = try_run(*arguments, **options)
    library.check(status)
    return outputs


def try_run(
    pool: library.ThreadPool,
    isa: int,
    op: c.Op,
    inputs: Sequence[np.ndarray[Any, Any]],
    out_cols: Sequence[int],
    *,
    rows: int | None = None,
    out_rows: int | None = None,
    batch: Batch | None = None,
    cache: Cache | None = None,
    in_place: bool = False,
    tunings: Tunings | None = None,
    records: np.ndarray[Any, Any] | None = None,
) -> tuple[int, list[np.ndarray[Any, Any]]]:
    """Run one op over `rows` rows; its status and its outputs.

    records: of recurrent state, [any, floats]; written where the batch says.
    in_place: the first output is the first input's view.  With out_rows the op runs as a head, over
    the batch's logit rows.
    """
    rows = len(inputs[0]) if rows is None else rows
    batch = batch or Batch()
    arena = Arena()
    for i, values in enumerate(inputs):
        op.inputs[i] = arena.add(len(values), values.shape[1], values)
    outs = []
    for i, cols in enumerate(out_cols):
        shared = in_place and i == 0
        outs.append(op.inputs[0] if shared else arena.add(out_rows or rows, cols))
        op.outputs[i] = outs[-1]
    arena.freeze()

    program = c.Program(arena=arena.floats.ctypes.data, pool=pool.handle, isa=isa)
    program.tunings = tuning_records(tunings) if tunings else None
    step = batch.step(rows)
    if records is not None:
        program.states, program.state_floats = records.ctypes.data, records.shape[1]
    if cache:
        program.kv = cache.bytes.ctypes.data
        program.kv_layer_offset = cache.offsets.ctypes.data
        program.kv_block_bytes = cache.strides.ctypes.data
        program.kv_dtype, program.block_tokens = cache.dtype, cache.block_tokens
    if out_rows is None:
        program.body, program.num_body = ctypes.pointer(op), 1
    else:
        program.head, program.num_head = ctypes.pointer(op), 1
        program.max_logit_rows, program.vocab_size = out_rows, 0
        copied = np.zeros((out_rows, 1), np.float32)
        step.logits_out = copied.ctypes.data
    status = library.load().quire_run(ctypes.byref(program), ctypes.byref(step))
    counts = [rows if out_rows is None else out_rows] * len(outs)
    arena.check_untouched(*zip(outs, counts, strict=True))
    return status, [arena.read(out, n) for out, n in zip(outs, counts, strict=True)]
