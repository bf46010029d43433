"""compressed-tensors, as llm-compressor writes it: what its config groups say of each layer.

The tensors are in compressed_tensors_weights.py, 4-bit floats in nvfp4.py and mxfp4.py.
Source: compressed-tensors 0.20, quantization/ and config/.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy.typing as npt

from quire.errors import ModelError
from quire.quant.formats import mxfp4, nvfp4
from quire.quant.formats.compressed_tensors_weights import (
    Weights,
    int_tensors,
    packed_tensors,
    read_float8,
    read_integers,
    read_packed,
)
from quire.quant.formats.scheme import Meaning, ModuleSchemes, Scheme
from quire.quant.formats.settings import Settings
from quire.quant.matrix import QuantizedMatrix

__all__ = ["config", "schemes", "write"]

Layout = Literal["pack-quantized", "int-quantized"]
FORMATS = (
    "pack-quantized",
    "int-quantized",
    "naive-quantized",
    "float-quantized",
    "mxfp8-quantized",
    "nvfp4-pack-quantized",
    "mxfp4-pack-quantized",
)
STRATEGIES = ("tensor", "channel", "group", "block", "tensor_group")
UNUSED = (
    "input_scale",
    "input_zero_point",
    "input_global_scale",
    "output_scale",
    "output_zero_point",
)
"""Of activations, which Quire rounds by itself, finer than these say."""
HOW_FOUND = ("observer", "observer_kwargs", "zp_dtype", "scale_dtype", "actorder", "dynamic")


@dataclass(frozen=True, slots=True)
class _Group:
    """Targets of a config group, and the scheme of the layers they name; None: plain floats."""

    targets: tuple[str, ...]
    scheme: Scheme | None


def schemes(config: Mapping[str, Any]) -> ModuleSchemes:
    """How a checkpoint with this quantization_config stores each linear layer."""
    settings = Settings(config, "quantization_config (compressed-tensors)")
    settings.get("quant_method")
    default = settings.choice("format", "mixed-precision", (*FORMATS, "mixed-precision"))
    settings.choice("quantization_status", "compressed", ("compressed", "frozen"))
    sparsity = settings.section("sparsity_config")
    if sparsity:
        sparsity.choice("format", "dense", ("dense",))
    ignore = settings.names("ignore")
    groups = settings.section("config_groups")
    if groups is None:
        raise settings.error("config_groups", None, "an object of groups")
    found = [_group(name, value, default, settings) for name, value in groups.items()]
    settings.skip("version", "global_compression_ratio", "kv_cache_scheme", "run_compressed")
    settings.skip("provider", "attention_input_activations")
    settings.finish()

    by_target = {target: group.scheme for group in found for target in group.targets}

    def scheme_of(module: str) -> Scheme | None:
        if any(_strength(module, name) for name in ignore):
            return None
        strengths = {target: _strength(module, target) for target in by_target}
        best = max(strengths.values(), default=0)
        # Of several patterns the first by the alphabet counts, wherever its group stands.
        fitting = [target for target, strength in strengths.items() if strength == best]
        return by_target[min(fitting)] if best else None

    return scheme_of


def write(
    name: str, matrix: QuantizedMatrix, layout: Layout = "pack-quantized"
) -> dict[str, npt.NDArray[Any]]:
    """The tensors of layer `name` (without ".weight"), by their full names.

    Scales become float16 where that holds them, else float32.  Raises ValueError for what the
    layout cannot hold: minimums, a table, an order of columns in bytes (int-quantized).
    """
    tensors = int_tensors(matrix) if layout == "int-quantized" else packed_tensors(matrix)
    return {f"{name}.{part}": data for part, data in tensors.items()}


def config(
    bits: int,
    group_size: int | None,
    symmetric: bool,
    layout: Layout = "pack-quantized",
    ignore: Sequence[str] = ("lm_head",),
    activation_bits: int | None = None,
) -> dict[str, Any]:
    """The quantization_config of a checkpoint with such tensors; group_size None: whole rows.

    activation_bits: what another engine should round activations to, for each token; None: not.
    """
    weights = {
        "num_bits": bits,
        "type": "int",
        "strategy": "channel" if group_size is None else "group",
        "symmetric": symmetric,
        "group_size": group_size,
        "dynamic": False,
    }
    inputs = {
        "num_bits": activation_bits,
        "type": "int",
        "strategy": "token",
        "symmetric": True,
        "dynamic": True,
    }
    group = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": None if activation_bits is None else inputs,
        "output_activations": None,
        "format": layout,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": list(ignore),
    }


def _group(name: str, value: Any, default: str, settings: Settings) -> _Group:
    """One config group, from its JSON object."""
    where = f"{settings.where}.config_groups.{name}"
    if not isinstance(value, dict):
        raise ModelError(f"{where} is {value!r:.200}; Quire reads an object with its weights")
    group = Settings(value, where)
    targets = group.names("targets")
    named = group.choice("format", default, (*FORMATS, "mixed-precision"))
    group.skip("input_activations", "output_activations")
    arguments = group.section("weights")
    group.finish()
    if arguments is None:
        return _Group(targets, None)
    weights = _weights(arguments)
    return _Group(targets, _scheme(_format(named, weights, where), weights))


def _weights(arguments: Settings) -> Weights:
    kind = arguments.choice("type", "int", ("int", "float"))
    bits = arguments.integer("num_bits", 8, range(1, 9) if kind == "int" else (4, 8))
    size = arguments.get("group_size")
    usual = "tensor" if size is None else "channel" if size == -1 else "group"
    strategy = arguments.choice("strategy", usual, STRATEGIES)
    grouped = strategy in ("group", "tensor_group")
    if grouped:
        size = arguments.group_size("group_size", -1)
        if size is None:
            raise arguments.error("group_size", -1, f"a positive number with {strategy!r}")
    block = arguments.get("block_structure")
    if isinstance(block, str):
        block = [int(each) if each.isdigit() else 0 for each in block.split("x")]
    if (strategy == "block") != (block is not None) or not _is_block(block):
        raise arguments.error("block_structure", block, "two positive numbers for 'block' only")
    symmetric = arguments.flag("symmetric", True)
    arguments.skip(*HOW_FOUND)
    arguments.finish()
    return Weights(
        bits, kind, strategy, symmetric, size if grouped else None, block and (block[0], block[1])
    )


def _is_block(block: Any) -> bool:
    if block is None:
        return True
    return (
        isinstance(block, list)
        and len(block) == 2
        and all(type(each) is int and each > 0 for each in block)
    )


def _format(named: str, weights: Weights, where: str) -> str:
    """The layout's name, derived from the weights where the config calls it mixed."""
    if named == "naive-quantized" or named == "mxfp8-quantized":
        named = "int-quantized" if weights.kind == "int" else "float-quantized"
    if weights.kind == "int":
        fitting = ("int-quantized", "pack-quantized")
        usual = fitting[weights.bits < 8]
    elif weights.bits == 8:
        fitting = ("float-quantized", "float-quantized")
        usual = "float-quantized"
    else:
        usual = "nvfp4-pack-quantized"
        if weights.strategy == "group" and weights.group_size == 32:
            usual = "mxfp4-pack-quantized"
        fitting = (usual, usual)
    layout = usual if named == "mixed-precision" else named
    if layout not in fitting or (weights.kind == "float" and not weights.symmetric):
        raise ModelError(
            f"{where}: {weights.kind}{weights.bits} weights, symmetric {weights.symmetric}, by "
            f"{weights.strategy} as {layout!r} are not read; Quire reads {', '.join(FORMATS)}"
        )
    return layout


def _scheme(layout: str, weights: Weights) -> Scheme:
    size = weights.block[1] if weights.block else weights.group_size
    by = {
        "block": f"blocks of {weights.block}",
        "tensor": "whole matrices",
        "channel": "whole rows",
    }
    label = f"compressed-tensors {weights.kind}{weights.bits}, "
    label += by.get(weights.strategy, f"groups of {size}")
    meaning: Meaning = "symmetric" if weights.symmetric else "zeros"
    if layout == "nvfp4-pack-quantized":
        return nvfp4.scheme(label, "weight_packed", "weight_global_scale", True, UNUSED)
    if layout == "mxfp4-pack-quantized":
        return mxfp4.scheme(label, UNUSED)
    parts: tuple[str, ...] = ("weight", "weight_scale")
    optional: tuple[str, ...] = ()
    read: Any = read_integers
    if layout == "pack-quantized":
        parts, read = ("weight_packed", "weight_scale"), read_packed
        optional = ("weight_shape", "weight_g_idx")
    elif layout == "float-quantized":
        read, meaning = read_float8, "table"
    if not weights.symmetric:
        parts += ("weight_zero_point",)
    unused = (*UNUSED, "weight_zero_point") if weights.symmetric else UNUSED
    reader = partial(read, weights=weights)
    return Scheme(label, weights.bits, size, meaning, parts, reader, optional, unused)


def _strength(module: str, target: str) -> int:
    """How closely a target names a linear layer: 3 by name, 2 by pattern, 1 by class, 0 not."""
    if target.startswith("re:"):
        try:
            return 2 if re.match(target[3:], module) else 0
        except re.error as error:
            raise ModelError(f"quantization_config: {target!r:.200}: {error}") from None
    return 3 if target == module else int(target == "Linear")
