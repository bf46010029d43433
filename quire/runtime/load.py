"""Builds everything one model needs to run, from its directory to a bound Program."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quire.backends.executable import Backend, Executable, LoadedWeights, StoredWeight
from quire.config import EngineConfig
from quire.errors import ConfigError
from quire.graph.ir import Node
from quire.graph.program import Program, StepLimits, compile_program
from quire.models.config_reader import read_json
from quire.models.pooling import Pooling, pooling_of
from quire.models.registry import build_spec
from quire.models.spec import Attention, AttentionPart, LatentAttention, Linear, ModelSpec, parts
from quire.ops.kv_cache import KV_FORMATS, CacheLayerShape, KvCache, KvLayerShape, KvLayout
from quire.ops.latent_cache import LATENT_FORMATS, LatentLayerShape
from quire.ops.number_formats import from_float32
from quire.ops.recurrent_state import RecurrentStates
from quire.quant.formats.registry import KEYS as QUANTIZATION_KEYS
from quire.quant.formats.registry import Quantization, find_quantization
from quire.quant.packed import PackedMatrix, column_orders
from quire.runtime.backends import binder, choose_backend, placement_of
from quire.runtime.block_files import BlockFiles
from quire.runtime.huge_pages import is_mapped
from quire.runtime.machine import Machine, inspect_machine
from quire.runtime.memory_plan import MemoryPlan, plan_memory
from quire.runtime.placement import place_weights
from quire.runtime.rope_tables import RopeTables
from quire.runtime.stored_blocks import StoredBlocks
from quire.runtime.vision import LoadedVision, plan_vision
from quire.weights.checkpoint import Checkpoint, open_checkpoint
from quire.weights.dummy import DummyCheckpoint
from quire.weights.gguf.files import SUFFIX
from quire.weights.hub import resolve_model
from quire.weights.loader import load_weights, spellings
from quire.weights.pack_cache import describe_files
from quire.weights.tensor import STORED_AS, RawTensor

__all__ = [
    "LoadedModel",
    "cache_shape",
    "find_model",
    "kv_layers",
    "kv_layout",
    "load_model",
    "read_config",
    "read_spec",
    "tie_missing_head",
]

logger = logging.getLogger(__name__)

DEFAULT_DISK_BYTES = 10 * 1024**3
"""What stored blocks may take where nobody said how much."""

QUANTIZATION_FILES = {"quantize_config.json": "gptq", "hf_quant_config.json": "modelopt"}
"""Where older writers put what config.json lacks → the method that it is of."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run.

    fingerprint: what its cached keys and values depend on, to the last bit.  store: where they
    outlive this process, if the user wants that.  pooling: what becomes of rows; None: text.
    vision: what the model sees with, if it does.
    """

    directory: Path
    spec: ModelSpec
    program: Program
    executable: Executable
    ropes: RopeTables
    memory: MemoryPlan
    machine: Machine
    fingerprint: bytes
    store: StoredBlocks | None = None
    pooling: Pooling | None = None
    vision: LoadedVision | None = None


def find_model(config: EngineConfig) -> Path:
    """The directory of the model, downloaded if it is a name on a hub."""
    return resolve_model(
        config.model, config.revision, config.source, config.offline, config.download_dir
    )


def read_spec(config: EngineConfig, directory: Path) -> ModelSpec:
    """The spec of the model in a directory, with the user's overrides."""
    return read_config(config, directory)[0]


def read_config(config: EngineConfig, directory: Path) -> tuple[ModelSpec, Quantization | None]:
    """The spec of the model in a directory, and how its matrices are stored unless as floats.

    Raises ModelError for a model or a quantization that is not read, ConfigError for options that
    do not go with a quantized checkpoint.
    """
    values = {**_read_values(directory), **config.hf_overrides}
    quantization = find_quantization(values)
    if quantization is not None and config.quantization != "auto":
        raise ConfigError(
            f"quantization is {config.quantization!r} and the checkpoint is quantized already "
            f"({quantization.method}); leave the option out, or use the original model"
        )
    if quantization is not None and config.load_format == "dummy":
        raise ConfigError(
            f"load_format 'dummy' makes up floats and this config.json says {quantization.method}; "
            "use the original model's, with --quantization int4 or int8"
        )
    plain = {key: value for key, value in values.items() if key not in QUANTIZATION_KEYS}
    return build_spec(plain, config.strict_config), quantization


def _read_values(directory: Path) -> dict[str, Any]:
    """config.json, with what older writers put into a file of its own; GGUF in the same words."""
    if directory.suffix == SUFFIX:
        from quire.weights.gguf.config import gguf_config  # here: few checkpoints need it
        from quire.weights.gguf.model import open_gguf

        return gguf_config(open_gguf(directory))
    values = read_json(directory / "config.json")
    if any(values.get(key) for key in QUANTIZATION_KEYS):
        return values
    for name, method in QUANTIZATION_FILES.items():
        if (directory / name).is_file():
            found = {"quant_method": method, **read_json(directory / name)}
            return {**values, "quantization_config": found}
    return values


def load_model(config: EngineConfig) -> LoadedModel:
    """Read the spec, open the weights, plan the memory, compile and bind the Program.

    Raises ModelError or CheckpointError for what is wrong with the model, CapacityError when it
    does not fit, ConfigError for an option that cannot be honoured.
    """
    directory, machine = find_model(config), inspect_machine()
    spec, quantization = read_config(config, directory)
    values = {**_read_values(directory), **config.hf_overrides}
    spec, pooling = pooling_of(config.task, spec, directory, values)
    checkpoint = _open(config, spec, directory)
    spec = tie_missing_head(spec, checkpoint)
    _refuse_unserved(config, spec)
    threads = config.threads or machine.cores
    weights = _read_weights(config, checkpoint, spec, quantization, directory, threads)
    orders = column_orders(weights)
    backend = choose_backend(config)
    row_formats = {name: backend.row_format(weight.dtype) for name, weight in weights.items()}
    layout, place = kv_layout(config, spec), placement_of(backend, config, machine, weights, spec)
    experts = {n for n in spec.expert_matrices if n in weights and is_mapped(weights[n].data)}

    def has_body(node: Node) -> bool:
        return backend.declines(node) is None

    def compiled(tokens: int) -> Program:
        per_request = 1 if config.speculative == "off" else 1 + config.num_speculative_tokens
        logit_rows = min(config.max_num_seqs * per_request, place.logit_rows, tokens)
        limits = StepLimits(tokens, logit_rows)
        return compile_program(spec, limits, has_body, row_formats, orders)

    plan = None
    if spec.vision is not None and pooling is None:
        plan = plan_vision(spec.vision, directory, has_body, row_formats)
    free_memory = place.free_bytes - (0 if plan is None else plan.num_bytes)
    placement = place_weights(
        config,
        free_memory,
        place.weight_bytes,
        sum(w.data.nbytes for name, w in weights.items() if name in experts),
    )
    memory = plan_memory(
        _with_cache_of_a_step(config, spec, layout) if spec.bidirectional else config,
        free_memory,
        placement.planned,
        spec.max_length,
        layout,
        lambda tokens: place.activation_bytes(compiled(tokens)),
        spec.window,
        4 * spec.state_floats,
        place.default_kv_bytes,
    )
    if placement.mapped:
        note = placement.note(memory.kv_cache, memory.activations)
        logger.warning(note)
        memory = replace(memory, notes=(*memory.notes, note))
    program = compiled(memory.max_num_batched_tokens)
    ropes = RopeTables(spec.ropes, config.max_num_seqs + config.max_num_queued_reqs)
    cache = KvCache(layout, memory.num_blocks, place.on_host)
    states = RecurrentStates(memory.num_state_records, spec.state_floats)
    streamed = {linear.weight.name for linear in spec.linears()}
    streamed -= experts if placement.mapped else set()
    bound = binder(backend, config, machine, weights, streamed, states)
    executable = bound(program, cache, ropes)
    vision = None if plan is None else plan.bind(bound)
    scheme = quantization.key if quantization else config.quantization
    fingerprint = _fingerprint(config, program, layout, directory, backend, scheme)
    store = _store(config, spec, cache)
    return LoadedModel(
        directory,
        spec,
        program,
        executable,
        ropes,
        memory,
        machine,
        fingerprint,
        store,
        pooling,
        vision,
    )


def _with_cache_of_a_step(config: EngineConfig, spec: ModelSpec, layout: KvLayout) -> EngineConfig:
    """An encoder's keys and values live for one step, so it needs no more room for them."""
    if config.kv_cache_memory_bytes is not None:
        return config
    longest = max(config.max_num_batched_tokens, config.max_model_len or spec.max_length)
    blocks = -(-longest // layout.block_tokens) + config.max_num_seqs  # each may end within one
    return replace(config, kv_cache_memory_bytes=blocks * layout.bytes_per_block)


def kv_layout(config: EngineConfig, spec: ModelSpec) -> KvLayout:
    """The KV cache's layout; its format is the model's own unless the user chose one."""
    name = spec.dtype if config.kv_cache_dtype == "auto" else config.kv_cache_dtype
    if name not in KV_FORMATS:
        raise ConfigError(
            f"the model's dtype {name!r} cannot be cached; set kv_cache_dtype to one of "
            f"{', '.join(KV_FORMATS)}"
        )
    if name not in LATENT_FORMATS and any(parts(spec, LatentAttention)):
        raise ConfigError(
            f"kv_cache_dtype {name!r} is not there for latents yet; choose one of "
            f"{', '.join(LATENT_FORMATS)}"
        )
    return KvLayout(kv_layers(spec), config.block_size, name)


def kv_layers(spec: ModelSpec) -> tuple[CacheLayerShape, ...]:
    """What each layer caches for a token; nothing where it has no attention."""
    mixers = [block.attention for block in spec.blocks]
    return tuple(
        cache_shape(each) if isinstance(each, Attention | LatentAttention) else KvLayerShape(0, 0)
        for each in mixers
    )


def cache_shape(part: AttentionPart) -> CacheLayerShape:
    """What an attention part caches of a token."""
    if isinstance(part, LatentAttention):
        return LatentLayerShape(part.rank, part.rope.dims)
    return KvLayerShape(part.kv_heads, part.head_dim)


def _open(config: EngineConfig, spec: ModelSpec, directory: Path) -> Checkpoint:
    if config.load_format == "dummy":
        shapes = {name: weight.shape for name, weight in spec.weights().items()}
        name = spec.dtype if config.dtype == "auto" else config.dtype
        return DummyCheckpoint(shapes, STORED_AS.get(name, "BF16"), config.seed)
    return open_checkpoint(directory)


def tie_missing_head(spec: ModelSpec, checkpoint: Checkpoint) -> ModelSpec:
    """Some exports leave tie_word_embeddings out of the config; a missing head says the same."""
    if spec.tied or spec.head.bias is not None or spec.output != "logits":
        return spec
    heads = tuple(
        spelling.removesuffix("weight")
        for place in spec.head.weight.places
        for spelling in spellings(place.name)
    )
    if any(name.startswith(heads) for name in checkpoint.names):
        return spec
    logger.warning("the checkpoint has no %s; using the embedding table", spec.head.weight.name)
    return replace(spec, head=Linear(spec.embedding.weight))


def _refuse_unserved(config: EngineConfig, spec: ModelSpec) -> None:
    """What recurrent layers do not go with, before anything is loaded."""
    if spec.state_floats and config.speculative != "off":
        raise ConfigError(
            f"speculative {config.speculative!r}: this model has recurrent layers, whose state "
            "cannot take back a wrong guess; leave the option out"
        )


def _read_weights(
    config: EngineConfig,
    checkpoint: Checkpoint,
    spec: ModelSpec,
    quantization: Quantization | None,
    directory: Path,
    threads: int,
) -> LoadedWeights:
    """Every weight of the spec as it will be served; imports what only integers need, if so."""
    if quantization is not None:
        from quire.runtime.stored_weights import read_weights

        weights = read_weights(checkpoint, spec, quantization, directory, config.dtype)
    else:
        weights = load_weights(checkpoint, spec.weights(), unused=spec.unused)
    if config.quantization != "auto":
        from quire.runtime.quantize import quantize_weights

        kept = None if config.load_format == "dummy" else directory
        weights = quantize_weights(weights, spec, config.quantization, kept, threads)
    return _in_dtype(weights, config.dtype)


def _in_dtype(weights: LoadedWeights, dtype: str) -> LoadedWeights:
    """The floats in another format where the user asked for one; else as they are, in place."""
    if dtype == "auto":
        return weights
    return {name: _convert(name, weight, dtype) for name, weight in weights.items()}


def _convert(name: str, weight: StoredWeight, dtype: str) -> StoredWeight:
    stored_as = STORED_AS[dtype]
    if weight.dtype == stored_as or isinstance(weight, PackedMatrix):
        return weight
    return RawTensor(name, stored_as, weight.shape, from_float32(weight.float32(), dtype))


def _store(config: EngineConfig, spec: ModelSpec, cache: KvCache) -> StoredBlocks | None:
    """Where blocks outlive the process; refused where a request gives back its first blocks."""
    if config.prefix_cache_dir is None:
        return None
    if spec.state_floats:
        raise ConfigError(
            "prefix_cache_dir: this model has recurrent layers, whose states are not kept on disk; "
            "leave the option out"
        )
    if spec.bidirectional:
        raise ConfigError(
            "prefix_cache_dir: this model reads each text whole, so no prefix can be kept; leave "
            "the option out"
        )
    if spec.window is not None:
        raise ConfigError(
            "prefix_cache_dir: every layer of this model has a window, so the first blocks of a "
            "long prefix are not kept; leave the option out"
        )
    if not cache.is_on_host:
        raise ConfigError(
            "prefix_cache_dir: blocks of another device's memory cannot be stored yet; leave the "
            "option out"
        )
    directory = Path(config.prefix_cache_dir).expanduser()
    max_bytes = config.prefix_cache_disk_bytes or DEFAULT_DISK_BYTES
    return StoredBlocks(BlockFiles(directory, max_bytes), cache)


def _fingerprint(
    config: EngineConfig,
    program: Program,
    layout: KvLayout,
    directory: Path,
    backend: Backend,
    scheme: str,
) -> bytes:
    """A hash over all that decides the bits of a cached block, beside its tokens.

    The code is among it: which ops there are, and the library that has them, for kernels sum in
    another order on another instruction set, and may in another version.
    """
    ops = [repr(node.op) for node in program.body]
    facts: list[Any] = [backend.build, ops, repr(program.spec), repr(layout)]
    facts += [str(directory.resolve()), config.revision, describe_files(directory)]
    facts += [config.load_format, config.dtype, scheme]
    facts += [config.seed if config.load_format == "dummy" else None]
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).digest()
