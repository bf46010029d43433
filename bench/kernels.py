"""Times each native kernel beside what this machine can do: `python bench/kernels.py`.

The memory-read rate and the multiply-add peak are measured again around every kernel and the best
of each is kept, because other work on the machine moves them.  With one thread, times are the
thread's CPU time, which other programs disturb less.  Weights come from a pool larger than the
caches, as in a model with many layers.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from quire.backends.native import library as c
from quire.backends.native.program import KV_FORMAT_CODES
from quire.ops.aligned import aligned_zeros
from quire.ops.kv_cache import KvLayerShape

FORMATS = {"float32": c.F32, "float16": c.F16, "bfloat16": c.BF16}
ITEM_BYTES = (4, 2, 2)
READ_FLOATS = 64 << 20
SHAPES = ((896, 1152), (896, 9728), (4864, 896), (2048, 8192))


class Machine:
    """One pool and instruction set, and the best rates seen so far."""

    def __init__(self, threads: int, isa: int) -> None:
        self.pool, self.isa = c.ThreadPool(threads), isa
        self.memory = aligned_zeros(4 * READ_FLOATS).view(np.float32)
        self.memory[:] = 1
        self.read_rate = self.peak = 0.0
        self.clock = time.thread_time if threads == 1 else time.perf_counter

    def calibrate(self) -> None:
        """Measure reading and multiply-adds once more."""
        library, handle = c.load(), self.pool.handle
        start = self.clock()
        count = library.quire_measure_read(handle, self.isa, self.memory.ctypes.data, READ_FLOATS)
        middle = self.clock()
        operations = library.quire_measure_fma(handle, self.isa, 2_000_000)
        self.read_rate = max(self.read_rate, count / (middle - start))
        self.peak = max(self.peak, operations / (self.clock() - middle))

    def barrier_s(self) -> float:
        """Seconds that a parallel job costs when every thread takes part."""
        start = time.perf_counter()
        c.load().quire_measure_barriers(self.pool.handle, 2000)
        return (time.perf_counter() - start) / 2000

    def best_s(self, calls: Iterator[Callable[[], None]], seconds: float = 0.4) -> float:
        """The shortest time of one call."""
        best, end = float("inf"), time.perf_counter() + seconds
        while time.perf_counter() < end:
            call = next(calls)
            start = self.clock()
            call()
            best = min(best, self.clock() - start)
        return best

    def report(self, name: str, seconds: float, num_bytes: float, operations: float) -> None:
        """Print one line: time, rates, and their shares of the machine's best."""
        self.calibrate()
        read, done = num_bytes / seconds, operations / seconds
        print(
            f"{name:42s} {seconds * 1e6:9.1f} us"
            f"  {read / 1e9:6.1f} GB/s {read / self.read_rate:5.0%}"
            f"  {done / 1e9:7.1f} GFLOP/s {done / self.peak:5.0%}"
        )


def bind(
    machine: Machine, op: c.Op, arena: np.ndarray[Any, Any], step: c.Step, **fields: Any
) -> Any:
    """A call that runs one op."""
    program = c.Program(
        body=ctypes.pointer(op), num_body=1, arena=arena.ctypes.data, pool=machine.pool.handle,
        isa=machine.isa, **fields,
    )  # fmt: skip
    run, kept = c.load().quire_run, (op, arena, program, step, fields)
    program_address, step_address = ctypes.byref(program), ctypes.byref(step)

    def call() -> None:
        c.check(run(program_address, step_address))
        assert kept

    return call


def random_floats(count: int) -> np.ndarray[Any, Any]:
    """Gaussian activations, as aligned as the engine's arena."""
    floats = aligned_zeros(4 * count).view(np.float32)
    floats[:] = np.random.default_rng(0).standard_normal(count)
    return floats


def in_turn(calls: list[Callable[[], None]]) -> Iterator[Callable[[], None]]:
    """Endlessly one after the other."""
    while True:
        yield from calls


def bench_linear(machine: Machine, name: str, m: int, k: int, n: int) -> None:
    """x [m, k] times weights [n, k], from as many matrices as do not fit the caches."""
    dtype = FORMATS[name]
    size = n * k * ITEM_BYTES[dtype]
    weights = machine.memory.view(np.uint8)
    arena = random_floats(m * (k + n))
    calls = []
    for i in range(max(1, min(32, weights.size // size))):
        op = c.Op(kind=c.OP_LINEAR, num_parts=1)
        op.inputs[0], op.outputs[0] = c.Tensor(0, k, k), c.Tensor(m * k, n, n)
        op.parts[0] = c.Matrix(weights.ctypes.data + i * size, n, k, dtype, 0)
        calls.append(bind(machine, op, arena, c.Step(num_tokens=m)))
    seconds = machine.best_s(in_turn(calls))
    machine.report(f"linear {name} M={m} K={k} N={n}", seconds, size, 2 * m * k * n)


def bench_attention(
    machine: Machine,
    name: str,
    requests: int,
    tokens: int,
    context: int,
    heads: int,
    kv_heads: int,
    head_dim: int = 64,
) -> None:
    """The last `tokens` tokens of each of some requests, over caches that do not fit the caches."""
    block = 16
    blocks = requests * -(-context // block)
    block_bytes = KvLayerShape(kv_heads, head_dim).block_bytes(block, name)
    kv = machine.memory.view(np.uint8)
    total = requests * tokens
    arena = random_floats(2 * total * heads * head_dim)
    positions = np.tile(np.arange(context - tokens, context, dtype=np.int32), requests)
    starts = np.arange(0, total + 1, tokens, dtype=np.int32)
    tables = np.arange(blocks, dtype=np.int32).reshape(requests, -1)
    strides = np.full(1, block_bytes, np.int64)
    assert blocks * block_bytes <= kv.size
    op = c.Op(kind=c.OP_ATTENTION, heads=heads, kv_heads=kv_heads, head_dim=head_dim, scale=0.125)
    width = heads * head_dim
    op.inputs[0], op.outputs[0] = c.Tensor(0, width, width), c.Tensor(total * width, width, width)
    step = c.Step(
        num_tokens=total, num_requests=requests, block_table_stride=tables.shape[1],
        positions=positions.ctypes.data, query_start=starts.ctypes.data,
        block_tables=tables.ctypes.data,
    )  # fmt: skip
    layers = np.arange(max(1, min(32, kv.size // (blocks * block_bytes))), dtype=np.int64)
    layers *= blocks * block_bytes
    calls = [
        bind(
            machine, op, arena, step, kv=kv.ctypes.data, kv_layer_offset=layers[i:].ctypes.data,
            kv_block_bytes=strides.ctypes.data, kv_dtype=KV_FORMAT_CODES[name], block_tokens=block,
        )
        for i in range(len(layers))
    ]  # fmt: skip
    seconds = machine.best_s(in_turn(calls))
    seen = requests * sum(range(context - tokens + 1, context + 1))
    text = f"attention {name} {requests}x{tokens}/{context} {heads}/{kv_heads} of {head_dim}"
    machine.report(text, seconds, blocks * block_bytes, 4 * seen * width)
    assert positions is not None and starts is not None and tables is not None


def bench_row_op(
    machine: Machine, name: str, kind: int, rows: int, width: int, streams: int
) -> None:
    """An op that does little with each number; the bytes are those of its activations."""
    arena = random_floats((streams + 1) * rows * width)
    weight = np.ones(width, np.float32)
    op = c.Op(kind=kind, eps=1e-6)
    op.vectors[0] = weight.ctypes.data
    for i in range(2):
        op.inputs[i] = c.Tensor(i * rows * width, width, width)
        op.outputs[i] = c.Tensor((streams - i) * rows * width, width, width)
    call = bind(machine, op, arena, c.Step(num_tokens=rows))
    seconds = machine.best_s(in_turn([call]), 0.1)
    machine.report(f"{name} T={rows} width={width}", seconds, 4 * rows * width * (streams + 1), 0)
    assert weight is not None


def bench_sampler(
    machine: Machine, name: str, vocab: int, rows: int, scale: float, **fields: Any
) -> None:
    """Rows of Gaussian logits; the time includes a fresh copy of them."""
    logits = (np.random.default_rng(0).standard_normal((rows, vocab)) * scale).astype(np.float32)
    work = logits.copy()
    records, results = np.zeros(rows, c.SAMPLE_ROW), np.zeros(rows, c.SAMPLE_RESULT)
    records["temperature"] = records["top_p"] = records["repetition_penalty"] = 1
    records["target"] = records["num_logprobs"] = -1
    room = np.zeros((rows, 32), np.int32), np.zeros((rows, 32), np.float32)
    results["top_ids"], results["top_logprobs"] = (array.ctypes.data for array in room)
    for field, value in fields.items():
        records[field] = value
    sample, best = c.load().quire_sample, float("inf")
    for i in range(30):
        records["output_index"] = np.arange(rows) + i * rows
        work[:] = logits
        start = machine.clock()
        c.check(
            sample(machine.pool.handle, machine.isa, work.ctypes.data, vocab, vocab, rows,
                   records.ctypes.data, results.ctypes.data)
        )  # fmt: skip
        best = min(best, machine.clock() - start)
    shape = f"V={vocab} rows={rows} std={scale:g}"
    print(f"sampler {name:20s} {shape:26s} {best / rows * 1e6:9.1f} us a row")


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--isa", choices=c.ISA_NAMES, default=c.ISA_NAMES[c.best_isa()])
    parser.add_argument("--only", default="", help="linear, attention, rows or sampler")
    parser.add_argument("--format", choices=FORMATS, default="bfloat16")
    parser.add_argument("--kv-format", choices=KV_FORMAT_CODES, default="bfloat16")
    options = parser.parse_args()
    machine = Machine(options.threads, c.ISA_NAMES.index(options.isa))
    for _ in range(5):
        machine.calibrate()
    groups: dict[str, Callable[[Machine, str], None]] = {
        "linear": _linear_group,
        "attention": _attention_group,
        "rows": _rows_group,
        "sampler": _sampler_group,
    }
    print(f"{options.isa}, {options.threads} threads")
    for name, group in groups.items():
        if options.only in name:
            group(machine, options.kv_format if name == "attention" else options.format)
    barrier = min(machine.barrier_s() for _ in range(20))
    print(
        f"reads {machine.read_rate / 1e9:.1f} GB/s, "
        f"multiply-adds {machine.peak / 1e9:.1f} GFLOP/s, barrier {barrier * 1e6:.2f} us"
    )


def _linear_group(machine: Machine, name: str) -> None:
    for k, n in SHAPES:
        for m in (1, 2, 4, 6, 8, 16, 64, 256):
            bench_linear(machine, name, m, k, n)


def _attention_group(machine: Machine, name: str) -> None:
    bench_attention(machine, name, 1, 1, 8192, 14, 2)
    bench_attention(machine, name, 16, 1, 1024, 14, 2)
    bench_attention(machine, name, 1, 1, 8192, 32, 8)
    bench_attention(machine, name, 1, 4, 8192, 32, 8)
    bench_attention(machine, name, 8, 1, 2048, 16, 16)
    bench_attention(machine, name, 1, 512, 512, 14, 2)
    bench_attention(machine, name, 1, 512, 4096, 32, 8)
    for head_dim in (64, 80, 96, 128, 256):
        bench_attention(machine, name, 4, 1, 2048, 16, 8, head_dim)
        bench_attention(machine, name, 1, 256, 1024, 16, 8, head_dim)


def _rows_group(machine: Machine, _: str) -> None:
    for rows in (1, 16, 512):
        bench_row_op(machine, "rms_norm", c.OP_RMS_NORM, rows, 896, 1)
        bench_row_op(machine, "add_rms_norm", c.OP_ADD_RMS_NORM, rows, 896, 3)
        bench_row_op(machine, "gated silu", c.OP_GATED, rows, 4864, 2)


def _sampler_group(machine: Machine, _: str) -> None:
    for rows in (1, 16):
        for scale in (2.0, 5.0):
            kinds: dict[str, dict[str, Any]] = {
                "greedy": {"temperature": 0},
                "temperature": {},
                "top-k 50": {"top_k": 50},
                "top-k 2000": {"top_k": 2000},
                "top-p 0.95": {"top_p": 0.95},
                "top-k 50 top-p 0.9": {"top_k": 50, "top_p": 0.9},
                "min-p 0.05": {"min_p": 0.05},
                "greedy, 20 logprobs": {"temperature": 0, "num_logprobs": 20},
            }
            for kind, fields in kinds.items():
                bench_sampler(machine, kind, 151_936, rows, scale, **fields)


if __name__ == "__main__":
    main()
