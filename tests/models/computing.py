"""Binds a spec and its weights to any backend, and computes one sequence in pieces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from quire.backends.executable import Backend, Executable, LoadedWeights
from quire.backends.native import abi, library
from quire.backends.native.program import NativeBackend, NativeExecutable
from quire.backends.reference.executable import ReferenceBackend, ReferenceExecutable
from quire.graph.program import StepLimits, compile_program
from quire.models.config_reader import read_json
from quire.models.registry import build_spec
from quire.models.spec import ModelSpec
from quire.ops.batch import Batch
from quire.ops.kv_cache import KvCache, KvLayout
from quire.ops.number_formats import STORED_AS
from quire.ops.recurrent_state import RecurrentStates
from quire.quant.packed import column_orders
from quire.runtime.kv_layout import kv_layers
from quire.runtime.rope_tables import RopeTables
from quire.weights.checkpoint import open_checkpoint
from quire.weights.loader import load_weights

Float32 = npt.NDArray[np.float32]

ISAS = tuple(f"native-{isa}" for isa in abi.ISA_NAMES)
BACKENDS = ("reference", "torch", *ISAS)
LIMITS = StepLimits(tokens=64, logit_rows=8)


@cache
def why_missing(backend: str) -> str:
    """Why a backend cannot run here; "" when it can."""
    if backend == "reference":
        return ""
    if backend == "torch":
        return "" if find_spec("torch") else "torch is not installed"
    isa = backend.removeprefix("native-")
    can_run = abi.ISA_NAMES.index(isa) in library.available_isas()
    return "" if can_run else f"this processor has no {isa}"


def need(backend: str) -> None:
    """Skip the running test, with the reason, where the backend cannot run."""
    if why_missing(backend):
        pytest.skip(why_missing(backend))


@dataclass(frozen=True)
class Loaded:
    """A checkpoint: its spec, and its weights as they are stored."""

    spec: ModelSpec
    weights: LoadedWeights


def load(directory: Path) -> Loaded:
    """Read a checkpoint directory as the engine does."""
    spec = build_spec(read_json(directory / "config.json"))
    return Loaded(spec, load_weights(open_checkpoint(directory), spec.weights()))


def kv_cache(spec: ModelSpec, kv_format: str = "float32", num_blocks: int = 24) -> KvCache:
    """A cache with blocks of 16 tokens; what nobody wrote yet is NaN, so reading it is seen."""
    cache = KvCache(KvLayout(kv_layers(spec), 16, kv_format), num_blocks)
    cache.arena[:] = 0xFF
    return cache


class Model:
    """One sequence at a time on one backend; the blocks of its table stand in no order."""

    def __init__(
        self,
        loaded: Loaded,
        backend: str = "reference",
        kv_format: str = "float32",
        threads: int = 1,
        limits: StepLimits = LIMITS,
    ) -> None:
        self.spec = loaded.spec
        self.limits = limits
        self.ropes = RopeTables(loaded.spec.ropes, 2)
        self.cache = kv_cache(loaded.spec, kv_format)
        self.executable = bind(loaded, backend, self.cache, self.ropes, threads, limits)
        order = np.random.default_rng(5).permutation(self.cache.num_blocks)
        self.block_table = order.astype(np.int32)

    def logits(self, tokens: Sequence[int], pieces: Iterable[int] | None = None) -> Float32:
        """The logits [T, V] of a whole prompt, computed in pieces of these sizes."""
        sizes = [self.limits.tokens] * len(tokens) if pieces is None else list(pieces)
        row = self.ropes.take(self.ropes.rope_class(len(tokens)))
        found, start = [], 0
        while start < len(tokens):
            part = tokens[start : start + sizes.pop(0)]
            found.append(self.step(part, start, row))
            start += len(part)
        self.ropes.release(row)
        return np.concatenate(found)

    def greedy(self, prompt: Sequence[int], count: int) -> tuple[list[int], Float32]:
        """The `count` most likely tokens after the prompt, each computed from the cache.

        And the logits [count, V] that each was chosen by.
        """
        row = self.ropes.take(self.ropes.rope_class(len(prompt)))
        logits, output, rows = self.step(prompt, 0, row)[-1], [], []
        for _ in range(count):
            output.append(int(logits.argmax()))
            rows.append(logits)
            logits = self.step(output[-1:], len(prompt) + len(output) - 1, row)[-1]
        self.ropes.release(row)
        return output, np.stack(rows)

    def step(self, tokens: Sequence[int], start: int, rope_row: int = 0) -> Float32:
        """Compute tokens that stand at `start` and on; the logits of each."""
        batch = Batch.single(tokens, start, self.block_table, self.ropes.arrays)
        rope_rows = np.full(len(tokens), rope_row, np.int32)
        return self.executable.logits(replace(batch, rope_rows=rope_rows)).copy()


def bind(
    loaded: Loaded,
    backend: str,
    cache: KvCache,
    ropes: RopeTables,
    threads: int,
    limits: StepLimits,
    num_records: int = 2,
) -> Executable:
    """Compile the spec for a backend, and bind it to its weights, cache and threads."""
    isa = backend.removeprefix("native-")
    chosen = backend_of(backend)
    rows = {name: chosen.row_format(weight.dtype) for name, weight in loaded.weights.items()}
    orders = column_orders(loaded.weights)
    program = compile_program(
        loaded.spec, limits, lambda n: chosen.declines(n) is None, rows, orders
    )
    states = RecurrentStates(num_records, loaded.spec.state_floats)
    states.arena[:] = np.nan
    if backend == "reference":
        return ReferenceExecutable(program, loaded.weights, cache, states)
    if backend == "torch":
        from quire.backends.torch.backend import TorchBackend
        from quire.backends.torch.executable import TorchExecutable

        assert isinstance(chosen, TorchBackend)
        chosen.device.set_threads(1)  # these models are too small for more
        return TorchExecutable(program, loaded.weights, cache, chosen.device, states)
    return NativeExecutable(
        program, loaded.weights, cache, ropes.arrays, threads, isa, states=states
    )


def backend_of(name: str) -> Backend:
    """The backend of a name; torch computes on the CPU."""
    if name == "reference":
        return ReferenceBackend()
    if name == "torch":
        from quire.backends.torch.backend import TorchBackend

        return TorchBackend("cpu")
    return NativeBackend(name.removeprefix("native-"))


def rounds_inputs(backend: str, dtype: str) -> bool:
    """Whether a backend multiplies weights of a dtype with activations as narrow."""
    return backend_of(backend).row_format(STORED_AS[dtype]) != "float32"


def distance(actual: Float32, expected: Float32) -> float:
    """The largest difference of two sets of logits, as a share of the largest expected logit."""
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())
