"""What mixtures of experts are put together from: routers, experts, and which layers have them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import MlpMaker
from quire.models.families.parts import gated_mlp, num_layers
from quire.models.places import Place, Rows
from quire.models.spec import (
    ExpertGroups,
    FeedForward,
    GatedMLP,
    Linear,
    MixtureOfExperts,
    Router,
    Weight,
)

__all__ = [
    "chosen_layers",
    "expert_count",
    "expert_mlps",
    "first_of",
    "in_stacks",
    "router",
    "stacked",
]

MAX_TOP_K = 64
MAX_EXPERTS = 2**17
"""Of all layers, more than any model has; a spec is built before the weights say how many."""


def expert_count(config: ConfigReader, *keys: str) -> int:
    """How many experts a layer has, under the first of the keys that has a value.

    Raises ModelError for more than any model's.
    """
    key = first_of(config, *keys)
    count = config.positive(key)
    if count * num_layers(config) > MAX_EXPERTS:
        raise ModelError(
            f"{config.architecture}: {key} is {count} in {num_layers(config)} layers; at most "
            f"{MAX_EXPERTS} experts are read"
        )
    return count


def router(
    config: ConfigReader,
    name: str,
    count: int,
    top_k: int,
    groups: ExpertGroups | None = None,
    **fields: Any,
) -> Router:
    """The router name.weight [count, E] that chooses top_k experts; fields: others of Router.

    Raises ModelError where so many experts cannot be chosen.
    """
    if groups is not None and groups.count == groups.chosen:
        groups = None
    within = count
    if groups is not None:
        if count % groups.count or groups.chosen > groups.count:
            raise ModelError(
                f"{config.architecture}: {count} experts in n_group {groups.count} groups, of "
                f"which topk_group {groups.chosen} are chosen, is not possible"
            )
        within = count // groups.count * groups.chosen
    if not 1 <= top_k <= min(within, MAX_TOP_K):
        raise ModelError(
            f"{config.architecture}: {top_k} experts a token cannot be chosen from {within}; at "
            f"most {min(within, MAX_TOP_K)}"
        )
    weight = Weight(name + ".weight", (count, config.positive("hidden_size")))
    return Router(weight, top_k, groups=groups, **fields)


def expert_mlps(
    config: ConfigReader, prefix: str, count: int, inner: int, **fields: Any
) -> tuple[GatedMLP, ...]:
    """The experts prefix0., prefix1. and so on, of width `inner`; fields: as gated_mlp's."""
    width = config.positive("hidden_size")
    return tuple(gated_mlp(f"{prefix}{e}.", width, inner, **fields) for e in range(count))


def chosen_layers(is_chosen: Callable[[int], bool], chosen: MlpMaker, other: MlpMaker) -> MlpMaker:
    """One feed-forward part in the layers that are chosen, another in the others."""
    return lambda layer, prefix: (chosen if is_chosen(layer) else other)(layer, prefix)


def in_stacks(
    mlps: tuple[GatedMLP, ...],
    gate_up: str,
    down: str,
    *,
    transposed: bool | None = False,
    interleaved: bool = False,
) -> tuple[GatedMLP, ...]:
    """The experts, stored in two tensors: [experts, 2F, E] with gate above up, and [experts, E, F].

    gate_up, down: names of the tensors; biases stand in those with _bias behind.  transposed: they
    are [experts, E, 2F] and [experts, F, E]; None: either way.  interleaved: rows of gate and up
    alternate.
    """
    count, (inner, width) = len(mlps), mlps[0].gate.weight.shape
    halves = (Rows(0, inner), Rows(inner, inner))
    if interleaved:
        halves = (Rows(0, 1, 2), Rows(1, 1, 2))

    def placed(linear: Linear, name: str, rows: int, e: int, half: Rows | None) -> Linear:
        cols = linear.weight.shape[1]
        straight = Place(name, (count, rows, cols), e, False, half)
        turned = replace(straight, shape=(count, cols, rows), transposed=True)
        stored = {False: (straight,), True: (turned,), None: (straight, turned)}[transposed]
        bias = linear.bias and replace(
            linear.bias, stored=(Place(f"{name}_bias", (count, rows), e, False, half),)
        )
        return Linear(replace(linear.weight, stored=stored), bias)

    return tuple(
        replace(
            mlp,
            gate=placed(mlp.gate, gate_up, 2 * inner, e, halves[0]),
            up=placed(mlp.up, gate_up, 2 * inner, e, halves[1]),
            down=placed(mlp.down, down, width, e, None),
        )
        for e, mlp in enumerate(mlps)
    )


def stacked(plain: MlpMaker, **fields: Any) -> MlpMaker:
    """The same, whose experts may stand in gate_up_proj and down_proj too; fields: of in_stacks."""

    def made(layer: int, prefix: str) -> FeedForward:
        part = plain(layer, prefix)
        if not isinstance(part, MixtureOfExperts):
            return part
        names = (prefix + "experts.gate_up_proj", prefix + "experts.down_proj")
        return replace(part, experts=in_stacks(part.experts, *names, **fields))

    return made


def first_of(config: ConfigReader, *keys: str) -> str:
    """The first of the keys that has a value; the first of all if none has."""
    return next((key for key in keys if config.get(key) is not None), keys[0])
