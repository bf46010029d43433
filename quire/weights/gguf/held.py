"""Finds which tensor of a GGUF model, or which part of one, each weight of the spec is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from quire.errors import CheckpointError
from quire.weights.gguf.architectures import Architecture
from quire.weights.gguf.config import NOT_WEIGHTS
from quire.weights.gguf.model import GgufModel

__all__ = ["Held", "find_held"]

OF_LAYER = re.compile(r"blk\.(\d+)\.(.+)", re.DOTALL)
KEYS, VALUES = "attn_k_b", "attn_v_b"
"""Latent attention's matrices of keys [H, C, N] and of values [H, V, C], where they are apart."""


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor `own`, or a part of it; what follows is done in this order.

    expert: one of a stack.  rows: from, to.  heads: the rows of so many stand for rotations of
    neighbours.  offset: what the file adds to the numbers.  values: own holds the keys of latent
    attention and this tensor its values; the spec has them in one.
    """

    own: str
    expert: int | None = None
    rows: tuple[int, int] | None = None
    heads: int = 0
    offset: float = 0.0
    values: str | None = None


def find_held(gguf: GgufModel, architecture: Architecture) -> dict[str, Held]:
    """The spec's name of each weight → where it stands; other tensors keep their names.

    Raises CheckpointError for a tensor that cannot be the parts that it stands for.
    """
    layer = architecture.tensors_of_layer
    found = _joined(gguf)
    apart = {each for held in found.values() for each in (held.own, held.values)}
    for own in gguf.tensors:
        if own in NOT_WEIGHTS or own in apart:
            continue
        match = OF_LAYER.fullmatch(own)
        if match is None:
            stem, dot, ending = own.rpartition(".")
            name = architecture.tensors.get(stem)
            found[f"{name}{dot}{ending}" if name else own] = _plain(gguf, own, architecture)
            continue
        prefix, rest = f"model.layers.{match[1]}.", match[2]
        stem, dot, ending = rest.rpartition(".")
        modules, suffix = layer.get(rest), ""
        if modules is None:
            modules, suffix = layer.get(stem, stem), dot + ending
        if isinstance(modules, str):
            held = _plain(gguf, own, architecture, stem)
            found.update(_stack(gguf, held, prefix + modules + suffix))
        else:
            sizes = _sizes(gguf, own, len(modules))
            for module, rows in zip(modules, sizes, strict=True):
                found[prefix + module + suffix] = Held(own, rows=rows)
    return found


def _plain(gguf: GgufModel, own: str, architecture: Architecture, stem: str = "") -> Held:
    heads = _count(gguf, architecture.turned[stem]) if stem in architecture.turned else 0
    is_norm = own.endswith("norm.weight")
    return Held(own, heads=heads, offset=architecture.norm_offset if is_norm else 0.0)


def _stack(gguf: GgufModel, held: Held, name: str) -> Iterator[tuple[str, Held]]:
    """The weight itself, or those that it is a stack of."""
    if "{}" not in name:
        yield name, held
        return
    for expert in range(gguf.tensors[held.own].shape[0]):
        yield name.format(expert), Held(held.own, expert)


def _sizes(gguf: GgufModel, own: str, count: int) -> list[tuple[int, int]]:
    """The rows of gate and up, or of queries, keys and values."""
    rows, shares = gguf.tensors[own].shape[0], [1] * count
    if count == 3:
        shares = [_count(gguf, f"attention.head_count{each}") for each in ("", "_kv", "_kv")]
    if rows % sum(shares):
        raise CheckpointError(
            f"{gguf.origin}: {own!r:.200} has {rows} rows, which are not {sum(shares)} equal parts"
        )
    ends = [rows // sum(shares) * sum(shares[: i + 1]) for i in range(count)]
    return list(zip([0, *ends], ends, strict=False))


def _joined(gguf: GgufModel) -> dict[str, Held]:
    """Latent attention's matrices that are stored apart."""
    found = {}
    for own in gguf.tensors:
        match = OF_LAYER.fullmatch(own)
        values = own.replace(KEYS, VALUES)
        if match and match[2] == f"{KEYS}.weight" and values in gguf.tensors:
            name = f"model.layers.{match[1]}.self_attn.kv_b_proj.weight"
            found[name] = Held(own, values=values)
    return found


def _count(gguf: GgufModel, key: str) -> int:
    """A number of heads; of key and value heads there are as many as of others by default."""
    prefix = f"{gguf.metadata['general.architecture']}."
    default = gguf.metadata.get(prefix + "attention.head_count")
    count = gguf.metadata.get(prefix + key, default)
    if type(count) is not int or count < 1:
        raise CheckpointError(f"{gguf.origin}: {prefix}{key} is {count!r:.80}, not a number")
    return count
