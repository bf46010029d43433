"""`quire show MODEL`: what the model is, and how much memory it takes; config.json will do."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from quire.cli.engine_options import add_engine_options, engine_config
from quire.cli.explain import MODEL_OPTIONS, model_directory, size_option
from quire.cli.parser import CommandParser
from quire.cli.values import human_integer

if TYPE_CHECKING:
    from quire.config import EngineConfig
    from quire.models.spec import ModelSpec
    from quire.weights.checkpoint import Checkpoint

__all__ = ["add_arguments", "run"]

CONTEXT = 4096
MOST_NAMES = 4
MIB = 1024**2


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "--batch", metavar="N", type=human_integer, default=1, help="requests at once (default: 1)"
    )
    parser.add_argument(
        "--context",
        metavar="N",
        type=human_integer,
        help=f"tokens of each request (default: {CONTEXT}, or the model length)",
    )
    sizes = ("dtype", "quantization", "kv_cache_dtype", "block_size")
    add_engine_options(parser, only=(*MODEL_OPTIONS, *sizes))


def run(namespace: argparse.Namespace) -> int:
    """Print the table."""
    config = engine_config(namespace)
    from quire.errors import ConfigError
    from quire.models.spec_table import spec_lines
    from quire.runtime.open_model import read_config
    from quire.runtime.quantize import packed_bits
    from quire.runtime.stored_formats import stored_formats

    directory = model_directory(config)
    spec, quantization = read_config(config, directory)
    context = size_option(namespace, "context", CONTEXT, spec.max_length)
    if namespace.batch < 1:
        raise ConfigError(f"--batch is {namespace.batch}; give 1 or more")
    print(f"{spec.architecture}, up to {spec.max_length} tokens, {spec.dtype}")
    print("\n".join(f"  {line}" for line in spec_lines(spec)))
    print(f"parameters: {spec.num_parameters:,}{_compared(spec, directory, quantization)}")
    if config.quantization == "auto":
        bits = stored_formats(spec, quantization, directory).packed_bits
    else:
        bits = packed_bits(spec, config.quantization)
    print("\n".join(_memory(config, spec, bits, namespace.batch, context)))
    return 0


def _compared(spec: ModelSpec, directory: Path, quantization: object) -> str:
    """How that goes with the tensors of the checkpoint, if it is there."""
    from quire.errors import CheckpointError
    from quire.weights.checkpoint import open_checkpoint

    if quantization is not None or directory.suffix == ".gguf":
        return "; the checkpoint is quantized, so its tensors are not counted"
    try:
        checkpoint = open_checkpoint(directory)
    except CheckpointError:
        return "; no weights here to compare with"
    counts = {name: math.prod(checkpoint.tensor(name).shape) for name in checkpoint.names}
    total = sum(counts.values())
    if total == spec.num_parameters:
        return ", as many as the checkpoint's"
    used = set(_used(spec, checkpoint))
    unread = sorted((name for name in counts if name not in used), key=counts.__getitem__)
    names = ", ".join(unread[::-1][:MOST_NAMES]) + (", ..." if len(unread) > MOST_NAMES else "")
    which = f": not read are {names}" if unread else ""
    return f", but the checkpoint has {total:,}{which}"


def _used(spec: ModelSpec, checkpoint: Checkpoint) -> Iterator[str]:
    """The tensors that weights are made of."""
    for weight in spec.weights().values():
        for place in weight.places:
            if all(map(checkpoint.has, place.tensors)):
                yield from place.tensors


def _memory(
    config: EngineConfig, spec: ModelSpec, bits: Mapping[str, float], batch: int, context: int
) -> Iterator[str]:
    """Bytes of a token in each format of the cache, and of everything at a batch and a context.

    bits: of a number of those weights that are quantized.
    """
    from dataclasses import replace

    from quire.control.window import num_blocks_at_once
    from quire.ops.kv_cache import KV_FORMATS
    from quire.ops.number_formats import storage_dtype
    from quire.runtime.kv_layout import kv_layout

    kept = kv_layout(config, spec)
    layouts = {name: replace(kept, format=name) for name in KV_FORMATS}
    size = config.block_size
    each = ", ".join(f"{name} {it.bytes_per_block // size:,}" for name, it in layouts.items())
    yield f"KV cache, bytes per token: {each}"
    dtype = spec.dtype if config.dtype == "auto" else config.dtype
    plain = 8 * storage_dtype(dtype).itemsize
    sizes = {name: math.prod(weight.shape) for name, weight in spec.weights().items()}
    weights = int(sum(bits.get(name, plain) * count for name, count in sizes.items())) // 8
    kept_as = f"quantized, the rest {dtype}" if bits else dtype
    blocks = num_blocks_at_once(context, size, spec.window, config.max_num_batched_tokens)
    cached = batch * blocks * kept.bytes_per_block
    yield (
        f"memory at batch {batch}, context {context}: weights {_mib(weights)} ({kept_as}) + "
        f"KV cache {_mib(cached)} ({kept.format}) = {_mib(weights + cached)}"
    )


def _mib(size: int) -> str:
    return f"{size / MIB:,.1f} MiB"
