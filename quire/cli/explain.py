"""`quire explain MODEL`: what the model's graph does and costs; config.json is all it needs."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from quire.cli.engine_options import add_engine_options, engine_config
from quire.cli.parser import CommandParser
from quire.cli.values import human_integer

if TYPE_CHECKING:
    from quire.backends.executable import Backend
    from quire.config import EngineConfig
    from quire.graph.explanation import BodyChoice, Explanation
    from quire.graph.ir import Node
    from quire.models.spec import ModelSpec

__all__ = ["add_arguments", "model_directory", "run", "size_option"]

CONTEXT, TOKENS = 1024, 512
WIDTH = {"float32": 4, "float16": 2, "bfloat16": 2}
MODEL_OPTIONS = ("revision", "source", "offline", "download_dir", "strict_config", "hf_overrides")
FORMAT_OPTIONS = (
    "dtype",
    "quantization",
    "kv_cache_dtype",
    "block_size",
    "backend",
    "device",
    "instruction_set",
    "threads",
    "tuning",
    "cpu_offload_gb",
    "memory_utilization",
)


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "--context",
        metavar="N",
        type=human_integer,
        help=f"tokens the decode step sees (default: {CONTEXT}, or the model length)",
    )
    parser.add_argument(
        "--tokens",
        metavar="N",
        type=human_integer,
        help=f"tokens of the prefill step (default: {TOKENS}, or the model length)",
    )
    add_engine_options(parser, only=(*MODEL_OPTIONS, *FORMAT_OPTIONS))


def run(namespace: argparse.Namespace) -> int:
    """Print the explanation."""
    config = engine_config(namespace)
    from quire.graph.explain import explain
    from quire.graph.explain_table import render
    from quire.ops.number_formats import STORED_AS
    from quire.runtime.backends import choose_backend
    from quire.runtime.kv_layout import kv_layout
    from quire.runtime.open_model import read_config
    from quire.runtime.quantize import packed_bits, packed_formats, row_formats
    from quire.runtime.stored_formats import stored_formats

    directory = model_directory(config)
    spec, quantization = read_config(config, directory)
    weight_format = spec.dtype if config.dtype == "auto" else config.dtype
    context = size_option(namespace, "context", CONTEXT, spec.max_length)
    tokens = size_option(namespace, "tokens", TOKENS, spec.max_length)
    found = stored_formats(spec, quantization, directory)
    bits, packed = found.packed_bits, found.packed_as
    if config.quantization != "auto":
        bits = packed_bits(spec, config.quantization, config.backend_in_use != "torch")
        packed = packed_formats(spec, config.quantization)
    backend = choose_backend(config)
    explanation = explain(
        spec,
        kv_layout(config, spec),
        weight_format,
        partial(_choose, backend),
        context,
        tokens,
        bits,
        row_formats(backend, spec, weight_format, packed),
        found.stored_as,
    )
    print(render(explanation))
    if explanation.expert_bytes:
        print("\n" + _placement(config, explanation))
    if config.backend_in_use == "torch":
        shares = {name: bits.get(name, 8.0 * WIDTH[weight_format]) / 8 for name in spec.weights()}
        print(_offload(config, spec, shares))
    if config.backend_in_use == "native":
        used: list[str] = sorted({*packed.values()}) or [STORED_AS[weight_format]]
        print("\n" + _tuning(config, used))
    return 0


def _offload(config: EngineConfig, spec: ModelSpec, shares: Mapping[str, float]) -> str:
    """What would stay in host memory for want of room on the device.  shares: bytes a number."""
    from quire.backends.torch.devices import find_device
    from quire.runtime.machine import inspect_machine
    from quire.runtime.memory_plan import usable_bytes
    from quire.runtime.offload_plan import layer_matrices, plan_offload

    found = find_device(config.device).free_memory()
    if found is None:
        return "\noffload: none; weights stand in the memory that computes, or it does not tell"
    weights = spec.weights()
    sizes = {n: int(math.prod(weights[n].shape) * share) for n, share in shares.items()}
    usable, host = usable_bytes(config, found[0]), inspect_machine().free_memory
    plan = plan_offload(config, usable, sizes, layer_matrices(spec, sizes), host)
    return f"\n{plan.line}"


def _placement(config: EngineConfig, explanation: Explanation) -> str:
    """Whether the experts would stand in this machine's memory or stay in their files."""
    from quire.runtime.machine import inspect_machine
    from quire.runtime.placement import place_weights

    free, experts = inspect_machine().free_memory, explanation.expert_bytes
    placement = place_weights(config, free, explanation.weight_bytes, experts)
    if placement.mapped:
        return placement.note(0, 0)
    return "experts: they fit in the memory that is free here now, with all other weights"


def _tuning(config: EngineConfig, used: Sequence[str]) -> str:
    """How the products of these formats of weights would be cut, and who says so."""
    from quire.backends.native.library import choose_isa
    from quire.cli.tune import table
    from quire.runtime.machine import inspect_machine
    from quire.runtime.tuning import choose_tunings

    machine = inspect_machine()
    threads = config.threads or machine.cores
    chosen = choose_tunings(config.tuning, choose_isa(config.instruction_set), threads, machine)
    tunings = {dtype: chosen.tunings[dtype] for dtype in used}
    return "\n".join([f"Tuning for {threads} threads: {chosen.source}", *table(tunings)])


def _choose(backend: Backend, node: Node) -> BodyChoice:
    """What a backend would run for a node, or why it has nothing."""
    from quire.graph.explanation import BodyChoice

    reason = backend.declines(node)
    if reason is not None:
        return BodyChoice(node.name, None, reason)
    return BodyChoice(node.name, backend.body(node), backend.passed_over(node))


def model_directory(config: EngineConfig) -> Path:
    """The model's directory; the path of a config.json alone will do."""
    from quire.runtime.open_model import find_model

    path = Path(config.model)
    return path.parent if path.name == "config.json" and path.is_file() else find_model(config)


def size_option(namespace: argparse.Namespace, name: str, default: int, longest: int) -> int:
    """The value of --context or --tokens, checked against the model length."""
    from quire.errors import ConfigError

    given: int | None = getattr(namespace, name, None)
    if given is None:
        return min(default, longest)
    if not 1 <= given <= longest:
        raise ConfigError(f"--{name} is {given}; this model takes 1 to {longest} tokens")
    return given
