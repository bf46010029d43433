"""Finds which tensor of a GGUF model, or which part of one, each weight of the spec is."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from quire.errors import CheckpointError
from quire.weights.gguf.architectures import Architecture, Share
from quire.weights.gguf.config import NOT_WEIGHTS
from quire.weights.gguf.model import GgufModel
from quire.weights.gguf.names import FLAT, LOGARITHMS, UNSQUEEZED

__all__ = ["TensorPart", "find_parts"]

OF_LAYER = re.compile(r"blk\.(\d+)\.(.+)", re.DOTALL)
KEYS, VALUES = "attn_k_b", "attn_v_b"
"""Latent attention's matrices of keys [H, C, N] and of values [H, V, C], where they are apart."""

Runs = tuple[int, int]


@dataclass(frozen=True, slots=True)
class TensorPart:
    """A tensor of the file, by its name, or a part of it; what follows is done in this order.

    expert: one of a stack.  rows: from, to.  heads: the rows of so many stand for rotations of
    neighbours.  row_runs, column_runs (n, m): in n runs of m, of which the first of each run belong
    together, then the second.  offset: what the file adds to the numbers.  logarithm: the file has
    minus the exponential of the number.  flat: its axes are one here.  unsqueezed: a second axis of
    one is left out.  values: `tensor` holds the keys of latent attention and this one its values;
    the spec has them in one.
    """

    tensor: str
    expert: int | None = None
    rows: tuple[int, int] | None = None
    heads: int = 0
    row_runs: Runs | None = None
    column_runs: Runs | None = None
    offset: float = 0.0
    logarithm: bool = False
    flat: bool = False
    unsqueezed: bool = False
    values: str | None = None


def find_parts(gguf: GgufModel, architecture: Architecture) -> dict[str, TensorPart]:
    """The spec's name of each weight → where it stands; other tensors keep their names.

    Raises CheckpointError for a tensor that cannot be the parts that it stands for.
    """
    found = _joined(gguf)
    apart = {each for part in found.values() for each in (part.tensor, part.values)}
    for own in gguf.tensors:
        if own not in NOT_WEIGHTS and own not in apart:
            found.update(_weights_in(gguf, own, architecture))
    return found


def _weights_in(
    gguf: GgufModel, own: str, architecture: Architecture
) -> Iterator[tuple[str, TensorPart]]:
    """What a tensor holds."""
    match = OF_LAYER.fullmatch(own)
    if match is None:
        stem, dot, ending = own.rpartition(".")
        name = architecture.tensors.get(stem)
        yield f"{name}{dot}{ending}" if name else own, _plain(own, architecture)
        return
    prefix, rest = f"{architecture.layers}.{match[1]}.", match[2]
    stem, dot, ending = rest.rpartition(".")
    table, suffix = architecture.tensors_of_layer, dot + ending
    modules = table.get(stem, stem)
    if rest in table:
        modules, suffix = table[rest], ""
    whole = replace(
        _plain(own, architecture),
        logarithm=rest in LOGARITHMS,
        flat=rest in FLAT,
        unsqueezed=rest in UNSQUEEZED,
    )
    if isinstance(modules, str):
        heads = _count(gguf, architecture.turned[stem]) if stem in architecture.turned else 0
        parts = [(modules, replace(whole, heads=heads))]
    else:
        sizes = _sizes(gguf, own, architecture.shares.get(stem, ((),) * len(modules)))
        parts = [
            (module, replace(whole, rows=rows)) for module, rows in zip(modules, sizes, strict=True)
        ]
    for module, part in parts:
        part = _untiled(gguf, part, module, architecture)
        yield from _stack(gguf, part, prefix + module + suffix)


def _plain(own: str, architecture: Architecture) -> TensorPart:
    is_norm = own.endswith("norm.weight") and not own.endswith("ssm_norm.weight")
    return TensorPart(own, offset=architecture.norm_offset if is_norm else 0.0)


def _untiled(
    gguf: GgufModel, part: TensorPart, module: str, architecture: Architecture
) -> TensorPart:
    """With the order of value heads, where the file has first those of one for each key head."""
    if module not in architecture.tiled:
        return part
    heads, groups = _count(gguf, "ssm.time_step_rank"), _count(gguf, "ssm.group_count")
    if heads % groups:
        raise CheckpointError(f"{gguf.origin}: {heads} value heads for {groups} key heads")
    runs = (heads // groups, groups)
    by_columns = architecture.tiled[module] == "columns"
    return replace(part, column_runs=runs) if by_columns else replace(part, row_runs=runs)


def _stack(gguf: GgufModel, part: TensorPart, name: str) -> Iterator[tuple[str, TensorPart]]:
    """The weight itself, or those that it is a stack of."""
    if "{}" not in name:
        yield name, part
        return
    for expert in range(gguf.tensors[part.tensor].shape[0]):
        yield name.format(expert), replace(part, expert=expert)


def _sizes(gguf: GgufModel, own: str, shares: Sequence[Share]) -> list[tuple[int, int]]:
    """The rows of each part, by the share that each has: a product of settings, 1 of none."""
    shape = gguf.tensors[own].shape
    rows = shape[1 if len(shape) == 3 else 0]
    parts = [math.prod(_count(gguf, key) for key in share) for share in shares]
    if rows % sum(parts):
        raise CheckpointError(
            f"{gguf.origin}: {own!r:.200} has {rows} rows, which are not {sum(parts)} equal parts"
        )
    ends = [rows // sum(parts) * end for end in itertools.accumulate(parts)]
    return list(itertools.pairwise([0, *ends]))


def _joined(gguf: GgufModel) -> dict[str, TensorPart]:
    """Latent attention's matrices that are stored apart."""
    found = {}
    for own in gguf.tensors:
        match = OF_LAYER.fullmatch(own)
        values = own.replace(KEYS, VALUES)
        if match and match[2] == f"{KEYS}.weight" and values in gguf.tensors:
            name = f"model.layers.{match[1]}.self_attn.kv_b_proj.weight"
            found[name] = TensorPart(own, values=values)
    return found


def _count(gguf: GgufModel, key: str) -> int:
    """A number of heads or of their rows, in the layers that have any.

    Of key and value heads there are as many as of others by default.
    """
    prefix = f"{gguf.metadata['general.architecture']}."
    default = gguf.metadata.get(prefix + "attention.head_count")
    count = gguf.metadata.get(prefix + key, default)
    if isinstance(count, np.ndarray) and count.size:
        count = count.max().item()
    if type(count) is not int or count < 1:
        raise CheckpointError(f"{gguf.origin}: {prefix}{key} is {count!r:.80}, not a number")
    return count
