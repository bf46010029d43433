"""The experts of DeepSeek, which other families have taken over: many small ones, and shared ones.

Source: arXiv:2401.06066, arXiv:2405.04434 (groups), arXiv:2412.19437 (the bias that chooses).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import MlpMaker, dense_mlp
from quire.models.families.experts import chosen_layers, expert_count, expert_mlps, router
from quire.models.families.parts import activation, gated_mlp
from quire.models.spec import ExpertGroups, MixtureOfExperts, Scoring, Weight

__all__ = ["METHODS", "TINY_EXPERTS", "Choice", "deepseek_experts"]

TINY_EXPERTS = {
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 48,
    "first_k_dense_replace": 1,
    "norm_topk_prob": False,
}


@dataclass(frozen=True, slots=True)
class Choice:
    """A way to choose experts, as far as config.json does not say otherwise.

    groups: how the groups are scored that they are chosen within; None: there are none.
    normalised: their weights are divided by their sum, before they are scaled.  has_bias: of the
    scores that choose, not of those that weigh.
    """

    scoring: Scoring = "softmax"
    groups: Literal["max", "top2_sum"] | None = None
    normalised: bool = False
    has_bias: bool = False


METHODS = {
    "greedy": Choice(),
    "group_limited_greedy": Choice(groups="max"),
    "noaux_tc": Choice("sigmoid", "top2_sum", normalised=True, has_bias=True),
}
"""By the values of topk_method."""


def deepseek_experts(
    config: ConfigReader,
    choice: Choice = METHODS["greedy"],
    bias_name: str = "gate.e_score_correction_bias",
) -> MlpMaker:
    """A dense MLP in the first layers, then experts that a token chooses beside the shared ones.

    choice: the default of topk_method.  bias_name: of the bias that chooses, if there is one.
    """
    count = expert_count(config, "n_routed_experts", "num_local_experts")
    shared = config.integer("n_shared_experts", 0)
    width, inner = config.positive("hidden_size"), config.positive("moe_intermediate_size")
    first = config.integer("first_k_dense_replace", 0)
    step = config.positive("moe_layer_freq", 1)
    kind, top_k = activation(config), config.positive("num_experts_per_tok")
    choice = _choice(config, choice)
    fields = _fields(config, choice)

    def mixture(layer: int, prefix: str) -> MixtureOfExperts:
        bias = Weight(prefix + bias_name, (count,)) if choice.has_bias else None
        return MixtureOfExperts(
            router(config, prefix + "gate", count, top_k, selection_bias=bias, **fields),
            expert_mlps(config, prefix + "experts.", count, inner, kind=kind),
            gated_mlp(prefix + "shared_experts.", width, shared * inner, kind=kind)
            if shared
            else None,
        )

    has_dense = first > 0 or step > 1 or config.get("intermediate_size") is not None
    return chosen_layers(
        lambda layer: layer >= first and layer % step == 0,
        mixture,
        dense_mlp(config) if has_dense else mixture,
    )


def _choice(config: ConfigReader, default: Choice) -> Choice:
    """What topk_method and scoring_func say."""
    method = config.get("topk_method")
    choice = default if method is None else METHODS.get(method)
    scoring = config.get("scoring_func", choice and choice.scoring)
    if choice is None or scoring not in ("softmax", "sigmoid"):
        raise ModelError(
            f"{config.architecture}: topk_method {method!r} with scoring_func {scoring!r} is not "
            f"supported; known: {', '.join(METHODS)}, with softmax or sigmoid"
        )
    return replace(choice, scoring=scoring)


def _fields(config: ConfigReader, choice: Choice) -> dict[str, Any]:
    """The fields of the router."""
    normalised = config.flag("norm_topk_prob", choice.normalised)
    scale = config.number("routed_scaling_factor", 1.0, low=1e-6, high=1e6)
    if normalised and scale != 1 and not choice.normalised:
        raise ModelError(
            f"{config.architecture}: norm_topk_prob with routed_scaling_factor {scale:g} means "
            "different things in different sources for its topk_method; not supported"
        )
    groups = None
    total, chosen = config.positive("n_group", 1), config.positive("topk_group", 1)
    if choice.groups is not None:
        groups = ExpertGroups(total, chosen, choice.groups)
    scoring = choice.scoring
    return {"scoring": scoring, "normalised": normalised, "scale": scale, "groups": groups}
