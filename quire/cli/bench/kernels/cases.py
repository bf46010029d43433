"""Calls of single native ops, each with what it has to read and to compute."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.backends.native import abi as c
from quire.backends.native import library
from quire.backends.native.program import KV_FORMAT_CODES
from quire.backends.native.records import heads_at_once
from quire.cli.bench.kernels.formats import FORMATS
from quire.cli.bench.kernels.machine import Call, Machine
from quire.cli.bench.kernels.measurement import Measurement, Peak
from quire.cli.bench.kernels.shapes import LinearShape
from quire.models.spec import AttentionPart, LatentAttention
from quire.ops.aligned import CACHE_LINE, aligned_zeros
from quire.ops.quantize import RowFormat, row_floats
from quire.runtime.kv_layout import cache_shape

__all__ = [
    "Case",
    "activations",
    "attention",
    "bind",
    "latent_projection",
    "linear",
    "quantize_rows",
    "row_op",
]

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
    row_dtype = library.load().quire_row_dtype(machine.isa, FORMATS[format].dtype)
    width = row_floats(k, ROW_FORMATS[row_dtype])
    parts = [FORMATS[format].matrix(n, k) for n in shape.outputs]
    sizes = [int(library.load().quire_matrix_bytes(ctypes.byref(part))) for part in parts]
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
    machine: Machine,
    kv_format: str,
    shape: AttentionPart,
    requests: int,
    tokens: int,
    context: int,
) -> Case:
    """The last `tokens` tokens of each of some requests, over the caches of several layers."""
    work = _work(shape)
    blocks = -(-context // KV_BLOCK)
    block_bytes = cache_shape(shape).block_bytes(KV_BLOCK, kv_format)
    layer_bytes = requests * blocks * block_bytes
    memory = machine.memory(layer_bytes)
    layers = max(1, min(MOST_COPIES, memory.size // layer_bytes))
    total = requests * tokens
    arena = activations(total * (work.inputs + work.outputs))
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
        op = c.Op(layer=layer, heads=shape.heads, scale=shape.scale, **work.fields)
        op.inputs[0] = c.Tensor(0, work.inputs, work.inputs)
        op.outputs[0] = c.Tensor(total * work.inputs, work.outputs, work.outputs)
        kept = (memory, positions, starts, tables, offsets, strides)
        calls.append(bind(
            machine, op, arena, step, *kept, kv=memory.ctypes.data,
            kv_layer_offset=offsets.ctypes.data, kv_block_bytes=strides.ctypes.data,
            kv_dtype=KV_FORMAT_CODES[kv_format], block_tokens=KV_BLOCK,
        ))  # fmt: skip
    window = shape.reach or context
    seen = [min(window, end) for end in range(context - tokens + 1, context + 1)]
    text = f"{requests}x{tokens}/{context} {work.text}"
    read = requests * min(context, window + tokens - 1) * block_bytes / KV_BLOCK
    operations = 2 * requests * sum(seen) * (work.inputs + work.outputs)
    return Case(work.kernel, kv_format, total, text, calls, read, operations)


@dataclass(frozen=True, slots=True)
class _Work:
    """What one kind of attention is, to its record and to people; inputs, outputs: of a row."""

    kernel: str
    inputs: int
    outputs: int
    text: str
    fields: dict[str, int]


def _work(shape: AttentionPart) -> _Work:
    heads = shape.heads
    if isinstance(shape, LatentAttention):
        rank, dims = shape.rank, shape.rope.dims
        parts = heads // heads_at_once(heads)
        fields = {"kind": c.OP_LATENT_ATTENTION, "kv_heads": parts}
        fields |= {"head_dim": rank, "rope_dims": dims}
        text = f"heads {heads} of {rank}+{dims}"
        return _Work("latent", heads * (rank + dims), heads * rank, text, fields)
    width = heads * shape.head_dim
    fields = {"kind": c.OP_ATTENTION, "kv_heads": shape.kv_heads, "head_dim": shape.head_dim}
    fields["window"] = shape.reach or 0
    return _Work("attention", width, width, f"heads {heads}/{shape.kv_heads}", fields)


def latent_projection(
    machine: Machine, kind: int, format: str, rows: int, shape: LatentAttention
) -> Case:
    """Every head's queries through its key matrix, or its latents through its value matrix.

    In integers these are matrices of their own, else parts of one.
    """
    name, out = {
        c.OP_LATENT_QUERIES: ("latent_queries", shape.key_dims),
        c.OP_LATENT_VALUES: ("latent_values", shape.value_dims),
    }[kind]
    heads, rank, dims = shape.heads, shape.rank, shape.rope.dims
    wide, half = rank + dims, heads * out
    inputs, outputs = (
        (heads * (out + dims), heads * wide)
        if kind == c.OP_LATENT_QUERIES
        else (heads * rank, heads * out)
    )
    whole = (heads * (shape.key_dims + shape.value_dims), rank)
    apart = (heads * rank, out) if kind == c.OP_LATENT_QUERIES else (half, rank)
    matrix = FORMATS[format].matrix(*(apart if FORMATS[format].is_integer else whole))
    size = int(library.load().quire_matrix_bytes(ctypes.byref(matrix)))
    memory = machine.memory(size)
    arena = activations(rows * (inputs + dims + outputs))
    calls = []
    for copy in range(max(1, min(MOST_COPIES, memory.size // size))):
        op = c.Op(kind=kind, heads=heads, head_dim=rank, rope_dims=dims, num_parts=1)
        op.parts[0] = matrix
        op.parts[0].data = memory.ctypes.data + copy * size
        op.inputs[0], op.inputs[1] = (
            c.Tensor(0, inputs, inputs),
            c.Tensor(rows * inputs, dims, dims),
        )
        op.outputs[0] = c.Tensor(rows * (inputs + dims), outputs, outputs)
        calls.append(bind(machine, op, arena, c.Step(num_tokens=rows), memory))
    operations = 2 * rows * half * rank
    shown = f"{heads} x {out} x {rank}"
    read = size * half * rank / (matrix.rows * matrix.cols)
    peak = PEAKS[c.INT8 if FORMATS[format].is_integer else c.F32]
    return Case(name, format, rows, shown, calls, read, operations, peak)


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
    run, alive = library.load().quire_run, (op, arena, program, step, kept)
    program_address, step_address = ctypes.byref(program), ctypes.byref(step)

    def call() -> None:
        library.check(run(program_address, step_address))
        assert alive

    return call


def activations(count: int) -> npt.NDArray[np.float32]:
    """Gaussian numbers, as aligned as the engine's arena."""
    floats = aligned_zeros(4 * count).view(np.float32)
    floats[:] = np.random.default_rng(0).standard_normal(count, np.float32)
    return floats
