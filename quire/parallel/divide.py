"""Divides a model over the ranks of a tensor-parallel group: the spec and the slices each holds.

Nothing here knows a family: every weight says how it splits, and each kind of part says which of
its numbers count what was divided.

Source: arXiv:1909.08053.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any, TypeVar

from quire.errors import ConfigError
from quire.models.recurrent import GatedDeltaNet, Mamba2
from quire.models.spec import (
    Attention,
    Embedding,
    LatentAttention,
    Linear,
    MixtureOfExperts,
    ModelSpec,
    Weight,
    parts,
)

__all__ = ["Rank", "Share", "Slice", "divide"]

Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class Rank:
    """One of `count` ranks."""

    index: int
    count: int


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows (axis 0) or columns (axis 1) start .. stop - 1 of a weight."""

    axis: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Share:
    """What one rank computes, and which part of each divided weight it holds."""

    spec: ModelSpec
    slices: Mapping[str, Slice]


def divide(spec: ModelSpec, rank: Rank, whole_experts: bool = False) -> Share:
    """One rank's share of a model.

    whole_experts: each rank has some of the experts (expert parallelism), not a part of every one;
    all else is divided as without.
    Raises ConfigError where heads or widths do not divide by the number of ranks, or where there
    are fewer experts than ranks.
    """
    slices: dict[str, Slice] = {}
    division = _Division(spec.architecture, rank, slices, whole_experts)
    return Share(_divided(spec, division), slices)


@dataclass(frozen=True, slots=True)
class _Division:
    """The rank, and the slices found so far."""

    architecture: str
    rank: Rank
    slices: dict[str, Slice]
    whole_experts: bool

    def count(self, what: str, total: int) -> int:
        """This rank's part of a number of equal things."""
        if total % self.rank.count:
            raise ConfigError(
                f"{self.architecture}: {total} {what} cannot be divided by {self.rank.count} "
                "ranks; choose a tensor-parallel size that divides them"
            )
        return total // self.rank.count

    def take(self, weight: Weight, start: int, stop: int) -> Weight:
        """The weight with only these rows or columns, as its split says."""
        axis = 0 if weight.split == "rows" else 1
        shape = (*weight.shape[:axis], stop - start, *weight.shape[axis + 1 :])
        self.slices[weight.name] = Slice(axis, start, stop)
        return replace(weight, shape=shape)


def _divided(part: Part, division: _Division) -> Part:
    result: Part = _divide_part(part, division)
    return result


@singledispatch
def _divide_part(part: Any, division: _Division) -> Any:
    """A value that counts nothing that is divided: only what is in it is."""
    if isinstance(part, tuple):
        return tuple(_divided(each, division) for each in part)
    names = getattr(part, "__dataclass_fields__", ())
    changed = {name: _divided(getattr(part, name), division) for name in names}
    return replace(part, **changed) if changed else part


@_divide_part.register
def _(part: Weight, division: _Division) -> Weight:
    if part.split is None:
        return part
    extent, rank = part.shape[0 if part.split == "rows" else 1], division.rank
    units = division.count(f"units of {part.name}", extent // part.split_unit)
    start = rank.index * units * part.split_unit
    return division.take(part, start, start + units * part.split_unit)


@_divide_part.register
def _(part: Linear, division: _Division) -> Linear:
    """A bias behind partial sums is added once, by the first rank."""
    weight = _divided(part.weight, division)
    late = part.weight.split == "columns" and division.rank.index > 0
    bias = None if part.bias is None or late else _divided(part.bias, division)
    return Linear(weight, bias)


@_divide_part.register
def _(part: Embedding, division: _Division) -> Embedding:
    """Rows of the table, evenly but for the last rank's."""
    if part.weight.split is None:
        return part
    start, stop = _even_part(part.weight.shape[0], division.rank)
    return replace(part, weight=division.take(part.weight, start, stop), first=start)


@_divide_part.register
def _(part: ModelSpec, division: _Division) -> ModelSpec:
    """The blocks' parts; the head divides as the embedding does, for they may be one."""
    head, (start, stop) = part.head, _even_part(part.vocab_size, division.rank)
    weights = [division.take(each, start, stop) for each in (head.weight, head.bias) if each]
    return replace(
        part,
        embedding=_divided(part.embedding, division),
        blocks=_divided(part.blocks, division),
        head=Linear(*weights),
    )


@_divide_part.register
def _(part: Attention, division: _Division) -> Attention:
    """Whole heads; where key/value heads are fewer than ranks, several ranks hold the same one."""
    heads, rank = division.count("query heads", part.heads), division.rank
    own = replace(
        part,
        query=_divided(part.query, division),
        query_norm=_divided(part.query_norm, division),
        output=_divided(part.output, division),
        gate=_divided(part.gate, division),
        heads=heads,
        slopes=part.slopes[rank.index * heads : (rank.index + 1) * heads],
        sinks=_divided(part.sinks, division),
    )
    if part.kv_heads % rank.count == 0:
        return replace(
            own,
            key=_divided(part.key, division),
            key_norm=_divided(part.key_norm, division),
            value=_divided(part.value, division),
            kv_heads=part.kv_heads // rank.count,
        )
    norms = parts(part.key_norm, Weight)
    whole_rows = any(weight.shape != (part.head_dim,) for weight in norms)
    if rank.count % part.kv_heads or whole_rows:  # a row with a head twice has another norm
        division.count("key/value heads", part.kv_heads)
    first = rank.index * part.kv_heads // rank.count * part.head_dim

    def one_head(linear: Linear) -> Linear:
        each = (linear.weight, linear.bias)
        return Linear(*(division.take(w, first, first + part.head_dim) for w in each if w))

    return replace(own, key=one_head(part.key), value=one_head(part.value), kv_heads=1)


@_divide_part.register
def _(part: LatentAttention, division: _Division) -> LatentAttention:
    """Whole heads; every rank has all of the latents."""
    return replace(
        part,
        query=_divided(part.query, division),
        key_value=_divided(part.key_value, division),
        output=_divided(part.output, division),
        heads=division.count("query heads", part.heads),
    )


@_divide_part.register
def _(part: GatedDeltaNet, division: _Division) -> GatedDeltaNet:
    """Whole key heads, each with the value heads that read it."""
    own = {name: _divided(getattr(part, name), division) for name in part.__dataclass_fields__}
    own["key_heads"] = division.count("key heads", part.key_heads)
    own["heads"] = division.count("value heads", part.heads)
    return GatedDeltaNet(**own)


@_divide_part.register
def _(part: Mamba2, division: _Division) -> Mamba2:
    """Whole groups of heads, each with its norm; of one group every rank has keys and queries."""
    shared = ("key", "query", "norm", "convolution") if part.key_heads == 1 else ()
    groups = 1 if shared else division.count("groups of Mamba heads", part.key_heads)
    heads = division.count("Mamba heads", part.heads)
    own = {
        name: _divided(getattr(part, name), division)
        for name in part.__dataclass_fields__
        if name not in shared
    }
    own |= {"heads": heads, "key_heads": groups, "norm_groups": groups}
    if not shared:
        return Mamba2(**own)
    taken, convolution = {name: getattr(part, name) for name in shared}, part.convolution
    taken["convolution"] = replace(
        convolution,
        weights=(_divided(convolution.weights[0], division), *convolution.weights[1:]),
        biases=(*_divided(convolution.biases[:1], division), *convolution.biases[1:]),
    )
    return Mamba2(**own | taken)


@_divide_part.register
def _(part: MixtureOfExperts, division: _Division) -> MixtureOfExperts:
    """A part of every expert, or some of them whole; every rank has the router."""
    if not division.whole_experts:
        return replace(
            part,
            experts=_divided(part.experts, division),
            shared=_divided(part.shared, division),
        )
    total, rank = len(part.experts), division.rank
    if total < rank.count:
        raise ConfigError(
            f"{division.architecture}: {total} experts cannot be divided by {rank.count} ranks; "
            "choose at most as many ranks as there are experts"
        )
    start, stop = _even_part(total, rank)
    return replace(
        part,
        experts=part.experts[start:stop],
        first_expert=start,
        shared=_divided(part.shared, division),
    )


def _even_part(total: int, rank: Rank) -> tuple[int, int]:
    return rank.index * total // rank.count, (rank.index + 1) * total // rank.count
