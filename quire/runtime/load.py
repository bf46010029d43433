"""Builds everything one model needs to run, from its directory to a bound Program."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quire.backends.executable import Backend, Executable, LoadedWeights
from quire.backends.torch.graph_memory import NOTHING, GraphEstimate, estimate
from quire.config import EngineConfig
from quire.errors import ConfigError
from quire.graph.ir import Node
from quire.graph.program import Program, StepLimits, compile_program
from quire.models.pooling import Pooling
from quire.models.spec import ModelSpec
from quire.models.wrapped import ServedSpec
from quire.ops.kv_cache import KvCache, KvLayout
from quire.ops.recurrent_state import RecurrentStates
from quire.quant.packed import column_orders
from quire.runtime.backends import Bind, Room, binder, choose_backend, room_of
from quire.runtime.block_stores import BlockStore, open_store
from quire.runtime.huge_pages import is_mapped
from quire.runtime.kv_layout import kv_layout
from quire.runtime.machine import Machine, inspect_machine
from quire.runtime.memory_plan import (
    MIB,
    MemoryPlan,
    least_beside_weights,
    plan_memory,
    usable_bytes,
)
from quire.runtime.offload_plan import OffloadPlan, layer_matrices, plan_offload
from quire.runtime.open_model import OpenModel, find_model, open_model
from quire.runtime.placement import place_weights
from quire.runtime.rope_tables import RopeTables
from quire.runtime.vision import LoadedVision, plan_vision
from quire.runtime.wrapped import is_wrapped, load_wrapped
from quire.weights.pack_cache import describe_files

__all__ = ["LoadedModel", "load_model"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run.

    fingerprint: what its cached keys and values depend on, to the last bit.  store: where they
    are kept beside the cache, if the user wants that.  pooling: what becomes of rows; None: text.
    vision: what the model sees with, if it does.
    """

    directory: Path
    spec: ServedSpec
    executable: Executable
    ropes: RopeTables
    memory: MemoryPlan
    machine: Machine
    fingerprint: bytes
    store: BlockStore | None = None
    pooling: Pooling | None = None
    vision: LoadedVision | None = None


def load_model(config: EngineConfig) -> LoadedModel:
    """Read the spec, open the weights, plan the memory, compile and bind the Program.

    Raises ModelError or CheckpointError for what is wrong with the model, CapacityError when it
    does not fit, ConfigError for an option that cannot be honoured.
    """
    machine = inspect_machine()
    directory = find_model(config)
    if is_wrapped(config, directory):
        return _wrapped(config, directory, machine)
    model = open_model(config, directory, config.threads or machine.cores)
    spec, weights, backend = model.spec, model.weights, choose_backend(config)
    layout, room = kv_layout(config, spec), room_of(backend, config, machine, weights, spec)
    compiler = _Compiler(config, spec, weights, backend, room.logit_rows)
    plan = None
    if spec.vision is not None and model.pooling is None:
        plan = plan_vision(spec.vision, model.directory, compiler.has_body, compiler.row_formats)
    if plan is not None:
        free = room.free_bytes - plan.num_bytes(room.temporaries)
        room = replace(room, free_bytes=free)
    offload = _plan_offload(config, room, spec, layout, compiler, machine)
    captures = room.captures and not offload.layers and not config.enforce_eager
    room = replace(room, weight_bytes=offload.on_device, captures=captures)
    memory, mapped = _plan_memory(config, model, room, layout, compiler)
    program = compiler.compiled(memory.max_num_batched_tokens, memory.max_model_len)
    ropes = RopeTables(spec.ropes, config.max_num_seqs + config.max_num_queued_reqs)
    cache = KvCache(layout, memory.num_blocks, room.on_host)
    states = RecurrentStates(memory.num_state_records, spec.state_floats, room.on_host)
    streamed = spec.streamed_matrices - mapped
    bound = binder(
        backend, config, machine, weights, streamed, states, offload.layers, memory.graphs
    )
    executable = _bind(backend, bound, program, cache, ropes, memory)
    return LoadedModel(
        model.directory,
        spec,
        executable,
        ropes,
        memory,
        machine,
        _fingerprint(config, program, layout, model, backend),
        store=open_store(config, spec, cache, executable, machine.free_memory - offload.on_host),
        pooling=model.pooling,
        vision=None if plan is None else plan.bind(bound),
    )


def _wrapped(config: EngineConfig, directory: Path, machine: Machine) -> LoadedModel:
    """A model that transformers computes, ropes and all."""
    found = load_wrapped(config, directory, machine)
    ropes = RopeTables((), 0)
    return LoadedModel(
        directory, found.spec, found.executable, ropes, found.memory, machine, found.fingerprint
    )


def _bind(
    backend: Backend,
    bound: Bind,
    program: Program,
    cache: KvCache,
    ropes: RopeTables,
    memory: MemoryPlan,
) -> Executable:
    """The Program, bound; a device takes all that was planned now, and not in traffic."""
    if backend.name != "torch":
        return bound(program, cache, ropes)
    from quire.backends.torch.backend import TorchBackend
    from quire.backends.torch.device_memory import claim, within_memory

    assert isinstance(backend, TorchBackend)
    with backend.device.current(), within_memory(backend.device, memory.lines()[0]):
        executable = bound(program, cache, ropes)
        claim(memory.activations, backend.device)
    return executable


class _Compiler:
    """Compiles a spec for a backend and for steps of some size."""

    def __init__(
        self,
        config: EngineConfig,
        spec: ModelSpec,
        weights: LoadedWeights,
        backend: Backend,
        max_logit_rows: int,
    ) -> None:
        self._logit_rows = min(config.max_num_seqs * (1 + config.max_drafts), max_logit_rows)
        self._spec, self._backend = spec, backend
        self._orders = column_orders(weights)
        self.row_formats = {name: backend.row_format(each.dtype) for name, each in weights.items()}

    def has_body(self, node: Node) -> bool:
        """Whether the backend computes a node as it is."""
        return self._backend.declines(node) is None

    def compiled(self, tokens: int, length: int = 0) -> Program:
        """The Program for steps of so many tokens at most.  length: see StepLimits."""
        limits = StepLimits(tokens, min(self._logit_rows, tokens), length)
        return compile_program(self._spec, limits, self.has_body, self.row_formats, self._orders)


def _plan_offload(
    config: EngineConfig,
    room: Room,
    spec: ModelSpec,
    layout: KvLayout,
    compiler: _Compiler,
    machine: Machine,
) -> OffloadPlan:
    """What of the weights stays in host memory; nothing where all of them are there anyway."""
    if room.on_host:
        if config.cpu_offload_gb:
            raise ConfigError(
                "cpu_offload_gb: this device computes with weights in the host's memory already; "
                "leave the option out"
            )
        return OffloadPlan((), room.weight_bytes, 0)
    usable = usable_bytes(config, room.free_bytes) - room.reserved_bytes
    least = least_beside_weights(
        config, layout, lambda n: room.activation_bytes(compiler.compiled(n)), spec.window
    )
    layers = layer_matrices(spec, room.sizes)
    return plan_offload(config, usable, room.sizes, layers, machine.free_memory, least)


def _plan_memory(
    config: EngineConfig, model: OpenModel, room: Room, layout: KvLayout, compiler: _Compiler
) -> tuple[MemoryPlan, set[str]]:
    """The plan, and the names of the experts that stay in their files for want of room."""
    spec, weights = model.spec, model.weights
    in_files = {n for n in spec.expert_matrices if n in weights and is_mapped(weights[n].data)}
    if not room.reads_mapped:
        in_files = set()
    expert_bytes = sum(weights[name].data.nbytes for name in in_files)
    placement = place_weights(config, room.free_bytes, room.weight_bytes, expert_bytes)

    graphs_of = _graph_estimates(config, room, spec, layout, compiler)
    memory = plan_memory(
        _with_cache_of_a_step(config, spec, layout) if spec.bidirectional else config,
        room.free_bytes,
        placement.planned,
        spec.max_length,
        layout,
        lambda tokens: room.activation_bytes(compiler.compiled(tokens)),
        spec.window,
        4 * spec.state_floats,
        room.default_kv_bytes,
        room.reserved_bytes,
        room.cures,
        lambda tokens: graphs_of(tokens).num_bytes,
    )
    most_of_graphs = graphs_of(memory.max_num_batched_tokens)
    if most_of_graphs != NOTHING:
        line = _captured_line(memory.graphs, most_of_graphs)
        memory = replace(memory, notes=(*memory.notes, line))
    if not placement.mapped:
        return memory, set()
    note = placement.note(memory.kv_cache, memory.activations)
    logger.warning(note)
    return replace(memory, notes=(*memory.notes, note)), in_files


def _graph_estimates(
    config: EngineConfig, room: Room, spec: ModelSpec, layout: KvLayout, compiler: _Compiler
) -> Callable[[int], GraphEstimate]:
    """What captured steps take at most, by the tokens of the largest step."""
    if not room.captures:
        return lambda tokens: NOTHING
    most_tokens = room.free_bytes // layout.bytes_per_block * layout.block_tokens
    length = min(config.max_model_len or spec.max_length, most_tokens)
    return lambda tokens: estimate(compiler.compiled(tokens, length))


def _captured_line(planned: int, most: GraphEstimate) -> str:
    """How the plan came to what captured steps may take."""
    less = "" if planned >= most.num_bytes else "; sizes that find no room run as they are"
    return f"captured steps: {planned / MIB:,.0f} MiB, of at most {most.line}{less}"


def _with_cache_of_a_step(config: EngineConfig, spec: ModelSpec, layout: KvLayout) -> EngineConfig:
    """An encoder's keys and values live for one step, so it needs no more room for them."""
    if config.kv_cache_memory_bytes is not None:
        return config
    longest = max(config.max_num_batched_tokens, config.max_model_len or spec.max_length)
    blocks = -(-longest // layout.block_tokens) + config.max_num_seqs  # each may end within one
    return replace(config, kv_cache_memory_bytes=blocks * layout.bytes_per_block)


def _fingerprint(
    config: EngineConfig,
    program: Program,
    layout: KvLayout,
    model: OpenModel,
    backend: Backend,
) -> bytes:
    """A hash over all that decides the bits of a cached block, beside its tokens.

    The code is among it: which ops there are, and the library that has them, for kernels sum in
    another order on another instruction set, and may in another version.
    """
    ops = [repr(node.op) for node in program.body]
    facts: list[Any] = [backend.build, ops, repr(program.spec), repr(layout)]
    directory = model.directory
    facts += [str(directory.resolve()), config.revision, describe_files(directory)]
    facts += [config.load_format, config.dtype, model.scheme]
    facts += [config.seed if config.load_format == "dummy" else None]
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).digest()
