"""Binds a Program to the native library: one call a step, with the interpreter lock released."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.backends.executable import LoadedWeights
from quire.backends.native import abi as c
from quire.backends.native import library
from quire.backends.native.record_writer import DTYPE_CODES, ROW_DTYPES, RecordWriter
from quire.backends.native.records import BODIES, record_of
from quire.backends.native.sample_rows import SampleTable
from quire.backends.native.tuning import Tunings, tuning_records
from quire.graph.ir import Node
from quire.graph.program import Program
from quire.ops.aligned import aligned_zeros
from quire.ops.batch import Batch
from quire.ops.kv_cache import KvCache
from quire.ops.op import Float32
from quire.ops.quantize import RowFormat
from quire.ops.recurrent_state import NO_STATES, RecurrentStates
from quire.sampling.state import SampledRows, SamplingState

__all__ = ["NativeBackend", "NativeExecutable"]

KV_FORMAT_CODES = {
    "float32": c.F32, "float16": c.F16, "bfloat16": c.BF16,
    "int8": c.KV_INT8, "fp8": c.KV_FLOAT8, "int4": c.KV_INT4,
}  # fmt: skip


class NativeBackend:
    """Has C++ bodies for the ops in BODIES, for one instruction set.

    instruction_set: "auto" for the best one here, or a name of ISA_NAMES.
    Raises ConfigError for an instruction set that this machine cannot run.
    """

    name = "native"

    def __init__(self, instruction_set: str = "auto") -> None:
        self._isa = library.choose_isa(instruction_set)

    @property
    def build(self) -> str:
        """The instruction set, and the size and time of the library's file."""
        file = library.library_path().stat()
        return f"native {c.ISA_NAMES[self._isa]}, {file.st_size} bytes of {file.st_mtime_ns}"

    def row_format(self, weight_dtype: str) -> RowFormat:
        """See Backend."""
        code = library.load().quire_row_dtype(self._isa, DTYPE_CODES[weight_dtype])
        return next(format for format, dtype in ROW_DTYPES.items() if dtype == code)

    def declines(self, node: Node) -> str | None:
        """A reason for an op without a record."""
        return None if type(node.op) in BODIES else f"no C++ body for {node.name}"

    @property
    def isa(self) -> int:
        """The instruction set, as an index into ISA_NAMES."""
        return self._isa

    def passed_over(self, node: Node) -> str | None:
        """An op has one body."""
        return None

    def body(self, node: Node) -> str:
        """The instruction set its kernels run with."""
        return f"native {c.ISA_NAMES[self._isa]}"


class NativeExecutable:
    """A Program as an array of op records, with its weights, arena, KV cache and threads.

    instruction_set: "auto" for the best one here, or a name of ISA_NAMES.  tunings: how products
    are cut; None leaves it to the library.
    Raises ConfigError for an instruction set that this machine cannot run.
    """

    def __init__(
        self,
        program: Program,
        weights: LoadedWeights,
        kv_cache: KvCache,
        frequencies: tuple[Float32, ...],
        num_threads: int,
        instruction_set: str = "auto",
        tunings: Tunings | None = None,
        states: RecurrentStates = NO_STATES,
    ) -> None:
        self.program = program
        self.kv_cache = kv_cache
        self.states = states
        self._library = library.load()
        self._isa = library.choose_isa(instruction_set)
        self._pool = library.ThreadPool(num_threads)
        self.weights = weights
        self._writer = RecordWriter(program.buffers, weights, frequencies)
        self._body = self._records(program.body)
        self._head = self._records(program.head)
        self._arena = aligned_zeros(program.buffers.arena_floats * 4).view(np.float32)
        self._layer_offsets = np.asarray(kv_cache.layer_offsets, np.int64)
        self._block_bytes = np.asarray(kv_cache.layout.block_bytes, np.int64)
        self._tunings = tuning_records(tunings) if tunings else None
        self._bound = self._bind()
        self._sampling = SampleTable()
        self._op_nanoseconds: npt.NDArray[np.int64] | None = None
        self._last_batch: Batch | None = None

    @property
    def summary(self) -> str:
        """See Executable."""
        isa = c.ISA_NAMES[self._isa]
        return f"kernels: native {isa}, {self._pool.num_threads} threads"

    @property
    def expert_usage(self) -> Mapping[int, npt.NDArray[np.int64]]:
        """See Executable."""
        return self._writer.expert_usage

    def admit(self, slot: int, state: SamplingState) -> None:
        """See Executable."""
        self._sampling.admit(slot, state)

    def run(self, batch: Batch) -> SampledRows:
        """See Executable."""
        samples, step = self._sampling.sample(batch), self._step(batch)
        if len(batch.logit_rows):
            step.rows, step.results = samples.addresses
        self._run(step)
        return samples.sampled()

    def logits(self, batch: Batch) -> npt.NDArray[np.float32]:
        """See Executable."""
        out = np.empty((len(batch.logit_rows), self.program.logits.width), np.float32)
        step = self._step(batch)
        step.logits_out = out.ctypes.data
        self._run(step)
        return out

    def time_ops(self) -> npt.NDArray[np.int64]:
        """From now on, add each op's nanoseconds to what is returned: body, head, the sampler."""
        self._op_nanoseconds = np.zeros(len(self._body) + len(self._head) + 1, np.int64)
        self._last_batch = None
        return self._op_nanoseconds

    def _run(self, step: Any) -> None:
        library.check(self._library.quire_run(ctypes.byref(self._bound), ctypes.byref(step)))

    def _step(self, batch: Batch) -> Any:
        """The record of a step; that of the last one, if the batch is the same, filled anew."""
        if batch is not self._last_batch:
            self._last_batch, self._last_step = batch, self._new_step(batch)
        self._last_step.rows = self._last_step.results = self._last_step.logits_out = None
        return self._last_step

    def _new_step(self, batch: Batch) -> Any:
        assert batch.num_tokens <= self.program.limits.tokens, "more tokens than the arena holds"
        return c.Step(
            num_tokens=batch.num_tokens,
            num_requests=batch.num_requests,
            num_logit_rows=len(batch.logit_rows),
            block_table_stride=batch.block_tables.shape[1],
            block_tables=batch.block_tables.ctypes.data,
            token_ids=batch.token_ids.ctypes.data,
            positions=batch.positions.ctypes.data,
            rope_rows=batch.rope_rows.ctypes.data,
            query_start=batch.query_start.ctypes.data,
            logit_rows=batch.logit_rows.ctypes.data,
            op_nanoseconds=None
            if self._op_nanoseconds is None
            else self._op_nanoseconds.ctypes.data,
            state_uses=batch.states.ctypes.data,
            axis_positions=_address(batch.axis_positions),
            given_rows=_address(batch.given_rows),
            num_given_rows=0 if batch.given_rows is None else len(batch.given_rows),
        )

    def _records(self, nodes: Iterable[Node]) -> Any:
        records = [record_of(node, self._writer) for node in nodes]
        return (c.Op * len(records))(*records)

    def _bind(self) -> Any:
        limits, layout = self.program.limits, self.kv_cache.layout
        logits = self.program.logits
        return c.Program(
            body=self._body,
            head=self._head,
            num_body=len(self._body),
            num_head=len(self._head),
            arena=self._arena.ctypes.data,
            kv=self.kv_cache.arena.ctypes.data,
            kv_layer_offset=self._layer_offsets.ctypes.data,
            kv_block_bytes=self._block_bytes.ctypes.data,
            kv_dtype=KV_FORMAT_CODES[layout.format],
            block_tokens=layout.block_tokens,
            max_logit_rows=limits.logit_rows,
            vocab_size=logits.width,
            logits=c.Tensor(logits.offset, logits.stride, logits.width),
            pool=self._pool.handle,
            isa=self._isa,
            tunings=self._tunings,
            states=self.states.arena.ctypes.data,
            state_floats=self.states.floats,
        )


def _address(array: npt.NDArray[Any] | None) -> int | None:
    return None if array is None else int(array.ctypes.data)
