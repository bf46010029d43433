"""Where a factor for each channel can be taken out of one matrix and put into another, exactly.

norm → q, k, v        norm.weight / s, columns of q, k, v * s
norm → gate, up       the same
v    → o              rows of v / s,   columns of o * s (attention mixes tokens, not channels)
up   → down           rows of up / s,  columns of down * s (the gate multiplies, up is linear)
norm → query_down, key_value_down; query_norm → query; latent_norm → key_value   (latent attention)
norm → all that a layer with a state reads; Mamba's own norm → output

Every expert of a mixture has an up and a down of its own; all, and the router, read one norm.

A part without its norm, or without a gate of its own, has fewer; a block may lack a part.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from quire.models.recurrent import GatedDeltaNet, Mamba2
from quire.models.spec import (
    MLP,
    Attention,
    Block,
    GatedMLP,
    Linear,
    MixtureOfExperts,
    Norm,
    ParallelMixers,
    TokenMixer,
    Weight,
    parts,
    readers,
)
from quire.ops.number_formats import from_float32, to_float32

__all__ = ["Folding", "fold", "foldings"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Folding:
    """A source whose channels feed the columns of targets.

    heads: (kv heads, query heads that share one, head size) where a channel of the source feeds
    several columns; None: one channel, one column.
    """

    source: Norm | Linear
    targets: tuple[Linear, ...]
    heads: tuple[int, int, int] | None = None

    def columns(self, channels: Float32) -> Float32:
        """A number for each channel of the source → one for each column of the targets."""
        if self.heads is None:
            return channels
        kv_heads, group, size = self.heads
        return np.repeat(channels.reshape(kv_heads, 1, size), group, axis=1).reshape(-1)

    def channels(self, columns: Float32) -> Float32:
        """Magnitudes by column → the largest that each channel feeds."""
        if self.heads is None:
            return columns
        largest: Float32 = columns.reshape(self.heads).max(axis=1).reshape(-1)
        return largest

    def sums(self, columns: Float64) -> Float64:
        """Numbers by column → their sum over all that each channel feeds."""
        if self.heads is None:
            return columns
        total: Float64 = columns.reshape(self.heads).sum(axis=1).reshape(-1)
        return total

    @property
    def source_names(self) -> tuple[str, ...]:
        """The tensors that hold the source's factor: its weight, and its bias if it has one."""
        return tuple(weight.name for weight in parts(self.source, Weight))

    @property
    def offset(self) -> float:
        """What is added to the source's weight wherever it is used."""
        return self.source.offset if isinstance(self.source, Norm) else 0.0


def foldings(block: Block) -> tuple[Folding, ...]:
    """Every folding of a block, in the order of computation."""
    mlp = block.mlp
    mixer = [] if block.attention is None else _of_mixer(block.attention_norm, block.attention)
    found = [each for each in mixer if each is not None]
    if mlp is not None:
        mlps = mlp.mlps if isinstance(mlp, MixtureOfExperts) else (mlp,)
        of_norm = _of_norm(block.mlp_norm, readers(mlp))
        if of_norm is not None:
            found = _with_all_readers(found, of_norm)
        found += [Folding(each.up, (each.down,)) for each in mlps if _is_linear_in_up(each)]
    return tuple(found)


def _with_all_readers(found: list[Folding], more: Folding) -> list[Folding]:
    """The parts of a parallel block may read one norm, which then has the targets of both."""
    if not any(each.source == more.source for each in found):
        return [*found, more]
    return [
        replace(each, targets=(*each.targets, *more.targets))
        if each.source == more.source
        else each
        for each in found
    ]


def _of_mixer(norm: Norm | None, part: TokenMixer) -> list[Folding | None]:
    if isinstance(part, Attention):
        group = part.heads // part.kv_heads
        shared = (part.kv_heads, group, part.head_dim) if group > 1 else None
        gate = () if part.gate is None else (part.gate,)
        return [
            _of_norm(norm, (part.query, part.key, part.value, *gate)),
            Folding(part.value, (part.output,), shared),
        ]
    if isinstance(part, ParallelMixers):
        found = [each for each in _of_mixer(norm, part.attention) if each is not None]
        for each in _of_mixer(norm, part.recurrent):
            found = found if each is None else _with_all_readers(found, each)
        return [*found]
    if isinstance(part, GatedDeltaNet):
        first = (part.query, part.key, part.value, part.gate)
        return [_of_norm(norm, (*first, part.beta, part.decay))]
    if isinstance(part, Mamba2):
        first = (part.gate, part.value, part.key, part.query)
        return [_of_norm(norm, (*first, part.step)), _of_norm(part.norm, (part.output,))]
    down = part.query if part.query_down is None else part.query_down
    return [
        _of_norm(norm, (down, part.key_value_down)),
        None if part.query_down is None else _of_norm(part.query_norm, (part.query,)),
        _of_norm(part.latent_norm, (part.key_value,)),
    ]


def _is_linear_in_up(mlp: GatedMLP | MLP) -> bool:
    own_gate = isinstance(mlp, GatedMLP) and mlp.gate.weight.name != mlp.up.weight.name
    return own_gate and mlp.activation != "clamped_swiglu"


def _of_norm(norm: Norm | None, targets: tuple[Linear, ...]) -> Folding | None:
    """None without a weight to fold; a matrix that is both gate and up is one target."""
    if norm is None or norm.weight is None:
        return None
    return Folding(norm, tuple({each.weight.name: each for each in targets}.values()))


def fold(
    folding: Folding,
    scales: Float32,
    weights: MutableMapping[str, Float32],
    stored_as: Mapping[str, str],
) -> Float32:
    """Divide the source's channels by `scales` and multiply the columns of the targets.

    stored_as: the formats of tensors that stay floats.  Where the source is such a one, it is
    rounded to its format first and the targets take exactly what is left, so nothing is lost.
    Returns the factors of the targets' columns.
    """
    name, *biases = folding.source_names
    offset = np.float32(folding.offset)
    old = weights[name] + offset
    by_row = scales.reshape(-1, *[1] * (old.ndim - 1))
    new = old / by_row
    if isinstance(folding.source, Norm) and name in stored_as:
        new = to_float32(from_float32(new - offset, stored_as[name]), stored_as[name]) + offset
        usable = (new != 0) & (old != 0)
        scales = np.divide(old, new, out=scales.copy(), where=usable)
    weights[name] = new - offset
    for bias in biases:
        weights[bias] = weights[bias] / scales
    factors = folding.columns(scales)
    for target in folding.targets:
        weights[target.weight.name] = weights[target.weight.name] * factors
    return factors
