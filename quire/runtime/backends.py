"""Chooses the backend that a config asks for, and binds a Program with it.

torch is imported here, and only where its backend is wanted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeAlias

from quire.backends.executable import Backend, Executable, LoadedWeights
from quire.backends.native.program import NativeBackend, NativeExecutable
from quire.backends.reference.executable import ReferenceBackend, ReferenceExecutable
from quire.config import EngineConfig
from quire.errors import ConfigError
from quire.graph.program import Program
from quire.models.spec import ModelSpec
from quire.ops.kv_cache import KvCache
from quire.ops.recurrent_state import RecurrentStates
from quire.runtime.huge_pages import has_huge_pages, in_huge_pages
from quire.runtime.machine import Machine
from quire.runtime.memory_plan import CURES, DEFAULT_KV_BYTES
from quire.runtime.rope_tables import RopeTables
from quire.runtime.tuning import choose_tunings

if TYPE_CHECKING:
    from quire.backends.torch.devices import Device

__all__ = [
    "MAX_LOGIT_ROWS",
    "Bind",
    "Room",
    "binder",
    "choose_backend",
    "free_bytes_of",
    "room_of",
]

Bind: TypeAlias = Callable[[Program, KvCache, RopeTables], Executable]

MAX_LOGIT_ROWS = 32
"""Logit rows computed at a time: bounds the logits' memory at 32 vocabularies."""
TORCH_LOGIT_ROWS = 128
"""More, as each of its calls costs the same whatever the rows."""
TEMPORARIES_OF_TORCH = 3
"""Its bodies make values of their own: room for so many times what a Program plans."""
RESERVED_BYTES = 256 * 1024**2
"""Of a device: a workspace of cuBLAS, modules of kernels, and what torch rounds up."""
RESERVED_SHARE = 16
"""Of a small device no more than this part is kept free for them."""
DEVICE_CURES = (
    "lower max_model_len or max_num_batched_tokens, raise memory_utilization, give --quantization "
    "or a quantized checkpoint, or keep matrices in host memory with --cpu-offload-gb"
)


def choose_backend(config: EngineConfig) -> Backend:
    """The backend of a config.

    Raises ConfigError for a device or an instruction set that is not there, and where torch is
    wanted and missing.
    """
    if config.backend_in_use == "reference":
        return ReferenceBackend()
    if config.backend_in_use == "native":
        return NativeBackend(config.instruction_set)
    if config.backend_in_use == "transformers":
        raise ConfigError(
            "backend 'transformers' runs a model whole and has no ops to choose; `quire generate` "
            "and `quire serve` take it"
        )
    if find_spec("torch") is None:
        raise ConfigError(
            "the torch backend needs torch, which is not installed; pip install 'quire[gpu]', or "
            "leave out backend and device to run on this processor without it"
        )
    from quire.backends.torch.backend import TorchBackend

    return TorchBackend(config.device)


@dataclass(frozen=True, slots=True)
class Room:
    """Where a model will stand, for the memory plan: in this process's memory, or on a device.

    free_bytes: that may be used.  weight_bytes: of all weights as they will stand there.
    default_kv_bytes: see plan_memory.  logit_rows: computed at a time.  temporaries: what values
    take there, as a multiple of what a Program plans.
    reads_mapped: weights may stay in their files.  reserved_bytes, cures: see plan_memory.
    sizes: of each weight there, where matrices may stay on the host instead.  captures: whether
    steps are captured.
    """

    free_bytes: int
    weight_bytes: int
    default_kv_bytes: int = DEFAULT_KV_BYTES
    logit_rows: int = MAX_LOGIT_ROWS
    temporaries: int = 1
    on_host: bool = True
    reads_mapped: bool = True
    reserved_bytes: int = 0
    cures: str = CURES
    sizes: Mapping[str, int] = field(default_factory=dict)
    captures: bool = False

    def activation_bytes(self, program: Program) -> int:
        """What the values of a Program take."""
        return program.buffers.arena_floats * 4 * self.temporaries


def room_of(
    backend: Backend,
    config: EngineConfig,
    machine: Machine,
    weights: LoadedWeights,
    spec: ModelSpec,
) -> Room:
    """Where a backend will put the weights of a spec.

    Raises ConfigError for a device that does not tell its memory, unless the user told the plan.
    """
    if backend.name != "torch":
        stored = sum(weight.data.nbytes for weight in weights.values())
        return Room(machine.free_memory, stored)
    from quire.backends.torch.backend import TorchBackend
    from quire.backends.torch.weights import sizes_on_device

    assert isinstance(backend, TorchBackend)
    device = backend.device
    linears = {linear.weight.name for linear in spec.linears()}
    sizes = sizes_on_device(weights, linears, device)
    size = sum(sizes.values())
    if device.is_cpu:
        return Room(
            machine.free_memory,
            size,
            logit_rows=TORCH_LOGIT_ROWS,
            temporaries=TEMPORARIES_OF_TORCH,
            reads_mapped=False,
        )
    free = free_bytes_of(device, config)
    everything = sys.maxsize  # nobody else wants a device's memory
    return Room(
        free,
        size,
        everything,
        TORCH_LOGIT_ROWS,
        TEMPORARIES_OF_TORCH,
        on_host=False,
        reads_mapped=False,
        reserved_bytes=min(RESERVED_BYTES, free // RESERVED_SHARE),
        cures=DEVICE_CURES,
        sizes=sizes,
        captures=device.captures,
    )


def free_bytes_of(device: Device, config: EngineConfig) -> int:
    """A device's free memory; any amount where it does not tell and the user told the plan.

    Raises ConfigError where nobody tells.
    """
    found = device.free_memory()
    if found is None and config.kv_cache_memory_bytes is None:
        raise ConfigError(
            f"{device.torch_device} does not say how much of its memory is free; set "
            "kv_cache_memory_bytes"
        )
    return sys.maxsize if found is None else found[0]


def binder(
    backend: Backend,
    config: EngineConfig,
    machine: Machine,
    weights: LoadedWeights,
    streamed: AbstractSet[str],
    states: RecurrentStates,
    offloaded: Sequence[Collection[str]] = (),
    graph_bytes: int = 0,
) -> Bind:
    """What binds a Program of these weights to its backend.

    streamed: the weights that every step reads whole.  offloaded: matrices that stay on the host,
    by layer.  graph_bytes: that captured steps may take.
    """
    threads = config.threads or machine.cores
    if isinstance(backend, NativeBackend):
        if has_huge_pages():
            weights = in_huge_pages(weights, streamed, threads)
        isa = config.instruction_set
        tunings = choose_tunings(config.tuning, backend.isa, threads, machine).tunings
        return lambda program, cache, ropes: NativeExecutable(
            program, weights, cache, ropes.arrays, threads, isa, tunings, states
        )
    if isinstance(backend, ReferenceBackend):
        return lambda program, cache, ropes: ReferenceExecutable(program, weights, cache, states)
    from quire.backends.torch.backend import TorchBackend
    from quire.backends.torch.executable import TorchExecutable

    assert isinstance(backend, TorchBackend)
    device = backend.device
    device.set_threads(threads)

    def bound(program: Program, cache: KvCache, ropes: RopeTables) -> Executable:
        read = _read_by(program, weights)
        if not isinstance(program.spec, ModelSpec):  # a tower, which stays whole
            return TorchExecutable(program, read, cache, device)
        return TorchExecutable(
            program, read, cache, device, states, offloaded=offloaded,
            graph_bytes=graph_bytes, enforce_eager=config.enforce_eager,
        )  # fmt: skip

    return bound


def _read_by(program: Program, weights: LoadedWeights) -> LoadedWeights:
    """The weights that a Program reads: a tower's stand beside those of its language model."""
    return {name: weights[name] for node in program.graph for name in node.op.weight_names}
