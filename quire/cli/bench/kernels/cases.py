"""Calls of single native ops, each with what it has to read and to compute."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.backends.native import library as c
from quire.backends.native.program import KV_FORMAT_CODES
from quire.cli.bench.kernels.formats import FORMATS
from quire.cli.bench.kernels.machine import Call, Machine
from quire.cli.bench.kernels.measurement import Measurement, Peak
from quire.cli.bench.kernels.shapes import LinearShape
from quire.models.spec import Attention
from quire.ops.aligned import CACHE_LINE, aligned_zeros
from quire.ops.kv_cache import KvLayerShape
from quire.ops.quantize import RowFormat, row_floats

__all__ = ["Case", "activations", "attention", "bind", "linear", "quantize_rows", "row_op"]

ROW_FORMATS: dict[int, RowFormat] = {c.F32: "float32", c.BF16: "bfloat16", c.INT8: "int8"}
PEAKS: dict[int, Peak] = {c.F32: "fma", c.BF16: "bfloat16", c.INT8: "int8"}
"""Of the activations' dtype: whose multiply-adds a product does."""

MOST_COPIES = 64  # of weights or caches that are used in turn
KV_BLOCK = 16


@dataclass(frozen=True, slots=True)
class Case:
    """Calls that do the same work on different memory, and the fields of a Measurement."""

    kernel: str
    format: str
    rows: int
    shape: str
    calls: list[Call]
    num_bytes: float
    operations: float = 0.0
    peak: Peak = "fma"
    prepare: Call | None = None

    def measure(self, machine: Machine, seconds: float) -> Measurement:
        """Time the calls, with the machine's rates measured before and after."""
        machine.calibrate()
        best = machine.best_s(self.calls, seconds, self.prepare)
        machine.calibrate()
        return Measurement(
            self.kernel, self.format, self.rows, self.shape,
            best, self.num_bytes, self.operations, self.peak,
        )  # fmt: skip


def linear(machine: Machine, format: str, rows: int, shape: LinearShape) -> Case:
    """x [rows, K] times every matrix of the shape, from as many copies as fill the memory."""
    k, out = shape.inputs, sum(shape.outputs)
    row_dtype = c.load().quire_row_dtype(machine.isa, FORMATS[format].dtype)
    width = row_floats(k, ROW_FORMATS[row_dtype])
    parts = [FORMATS[format].matrix(n, k) for n in shape.outputs]
    sizes = [int(c.load().quire_matrix_bytes(ctypes.byref(part))) for part in parts]
    room = sum(-(-size // CACHE_LINE) * CACHE_LINE for size in sizes)
    memory = machine.memory(room)
    arena = activations(rows * (width + out))
    if row_dtype != c.F32:
        quantize_rows(machine, arena, rows, k, row_dtype)
    calls = []
    for copy in range(max(1, min(MOST_COPIES, memory.size // room))):
        op = c.Op(kind=c.OP_LINEAR, num_parts=len(parts), row_dtype=row_dtype)
        op.inputs[0], op.outputs[0] = c.Tensor(0, width, k), c.Tensor(rows * width, out, out)
        address = memory.ctypes.data + copy * room
        for i, (part, size) in enumerate(zip(parts, sizes, strict=True)):
            op.parts[i] = part
            op.parts[i].data = address
            address += -(-size // CACHE_LINE) * CACHE_LINE
        calls.append(bind(machine, op, arena, c.Step(num_tokens=rows), memory))
    peak = PEAKS[row_dtype]
    operations = 2 * rows * k * out
    return Case("linear", format, rows, str(shape), calls, sum(sizes), operations, peak)


def attention(
    machine: Machine, kv_format: str, shape: Attention, requests: int, tokens: int, context: int
) -> Case:
    """The last `tokens` tokens of each of some requests, over the caches of several layers."""
    blocks = -(-context // KV_BLOCK)
    block_bytes = KvLayerShape(shape.kv_heads, shape.head_dim).block_bytes(KV_BLOCK, kv_format)
    layer_bytes = requests * blocks * block_bytes
    memory = machine.memory(layer_bytes)
    layers = max(1, min(MOST_COPIES, memory.size // layer_bytes))
    total, width = requests * tokens, shape.heads * shape.head_dim
    arena = activations(2 * total * width)
    positions = np.tile(np.arange(context - tokens, context, dtype=np.int32), requests)
    starts = np.arange(0, total + 1, tokens, dtype=np.int32)
    tables = np.arange(requests * blocks, dtype=np.int32).reshape(requests, blocks)
    offsets = np.arange(layers, dtype=np.int64) * layer_bytes
    strides = np.full(layers, block_bytes, np.int64)
    step = c.Step(
        num_tokens=total, num_requests=requests, block_table_stride=blocks,
        positions=positions.ctypes.data, query_start=starts.ctypes.data,
        block_tables=tables.ctypes.data,
    )  # fmt: skip
    calls = []
    for layer in range(layers):
        op = c.Op(
            kind=c.OP_ATTENTION, layer=layer, heads=shape.heads, kv_heads=shape.kv_heads,
            head_dim=shape.head_dim, scale=shape.scale, window=shape.window or 0,
        )  # fmt: skip
        op.inputs[0] = c.Tensor(0, width, width)
        op.outputs[0] = c.Tensor(total * width, width, width)
        kept = (memory, positions, starts, tables, offsets, strides)
        calls.append(bind(
            machine, op, arena, step, *kept, kv=memory.ctypes.data,
            kv_layer_offset=offsets.ctypes.data, kv_block_bytes=strides.ctypes.data,
            kv_dtype=KV_FORMAT_CODES[kv_format], block_tokens=KV_BLOCK,
        ))  # fmt: skip
    window = shape.window or context
    seen = [min(window, end) for end in range(context - tokens + 1, context + 1)]
    text = f"{requests}x{tokens}/{context} heads {shape.heads}/{shape.kv_heads}"
    read = requests * min(context, window + tokens - 1) * block_bytes / KV_BLOCK
    operations = 4 * requests * sum(seen) * width
    return Case("attention", kv_format, total, text, calls, read, operations)


def row_op(machine: Machine, name: str, kind: int, rows: int, width: int, streams: int) -> Case:
    """An op that does little with each number; the bytes are those of its activations.

    streams: inputs and outputs together.  They stay in the caches, as within a step.
    """
    arena = activations((streams + 1) * rows * width)
    weight = np.ones(width, np.float32)
    op = c.Op(kind=kind, eps=1e-6, heads=1, row_dtype=c.INT8 if kind == c.OP_QUANTIZE else c.F32)
    op.vectors[0] = weight.ctypes.data
    for i in range(2):
        op.inputs[i] = c.Tensor(i * rows * width, width, width)
        op.outputs[i] = c.Tensor((streams - i) * rows * width, width, width)
    call = bind(machine, op, arena, c.Step(num_tokens=rows), weight)
    return Case(name, "float32", rows, str(width), [call], 4 * rows * width * streams)


def quantize_rows(machine: Machine, arena: Any, rows: int, width: int, row_dtype: int) -> None:
    """Fill the first rows of the arena with a quantized input, from numbers of their own."""
    floats = row_floats(width, ROW_FORMATS[row_dtype])
    own = activations(rows * (floats + width))
    op = c.Op(kind=c.OP_QUANTIZE, row_dtype=row_dtype)
    op.inputs[0] = c.Tensor(rows * floats, width, width)
    op.outputs[0] = c.Tensor(0, floats, width)
    bind(machine, op, own, c.Step(num_tokens=rows))()
    arena[: rows * floats] = own[: rows * floats]


def bind(
    machine: Machine, op: Any, arena: npt.NDArray[np.float32], step: Any, *kept: Any, **fields: Any
) -> Call:
    """A call that runs one op; `kept` must live as long."""
    program = c.Program(
        body=ctypes.pointer(op), num_body=1, arena=arena.ctypes.data, pool=machine.pool.handle,
        isa=machine.isa, **fields,
    )  # fmt: skip
    run, alive = c.load().quire_run, (op, arena, program, step, kept)
    program_address, step_address = ctypes.byref(program), ctypes.byref(step)

    def call() -> None:
        c.check(run(program_address, step_address))
        assert alive

    return call


def activations(count: int) -> npt.NDArray[np.float32]:
    """Gaussian numbers, as aligned as the engine's arena."""
    floats = aligned_zeros(4 * count).view(np.float32)
    floats[:] = np.random.default_rng(0).standard_normal(count, np.float32)
    return floats
