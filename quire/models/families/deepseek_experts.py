"""The experts of DeepSeek, which other families have taken over: many small ones, and shared ones.

Source: arXiv:2401.06066, arXiv:2405.04434 (groups), arXiv:2412.19437 (the bias that chooses).
"""

from __future__ import annotations

from typing import Any

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import MlpMaker, dense_mlp
from quire.models.families.experts import chosen_layers, expert_count, expert_mlps, router
from quire.models.families.parts import activation, gated_mlp
from quire.models.spec import ExpertGroups, MixtureOfExperts, Weight

__all__ = ["TINY_EXPERTS", "deepseek_experts"]

TINY_EXPERTS = {
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 48,
    "first_k_dense_replace": 1,
    "norm_topk_prob": False,
}

METHODS = ("greedy", "group_limited_greedy", "noaux_tc")


def deepseek_experts(config: ConfigReader, method: str = "greedy") -> MlpMaker:
    """A dense MLP in the first layers, then experts that a token chooses beside the shared ones.

    method: what topk_method means where config.json does not say: "greedy"; among the best groups
    only, "group_limited_greedy"; the same, with a bias that chooses and does not weigh, "noaux_tc".
    """
    count = expert_count(config, "n_routed_experts", "num_local_experts")
    shared = config.integer("n_shared_experts", 0)
    width, inner = config.positive("hidden_size"), config.positive("moe_intermediate_size")
    first, step = config.integer("first_k_dense_replace", 0), config.positive("moe_layer_freq", 1)
    kind, top_k = activation(config), config.positive("num_experts_per_tok")
    fields, with_bias = _choice(config, method)

    def mixture(layer: int, prefix: str) -> MixtureOfExperts:
        name = prefix + "gate"
        bias = Weight(name + ".e_score_correction_bias", (count,)) if with_bias else None
        return MixtureOfExperts(
            router(config, name, count, top_k, selection_bias=bias, **fields),
            expert_mlps(config, prefix + "experts.", count, inner, kind=kind),
            gated_mlp(prefix + "shared_experts.", width, shared * inner, kind=kind)
            if shared
            else None,
        )

    return chosen_layers(
        lambda layer: layer >= first and layer % step == 0, mixture, dense_mlp(config)
    )


def _choice(config: ConfigReader, method: str) -> tuple[dict[str, Any], bool]:
    """The fields of the router, and whether a bias chooses."""
    method = config.get("topk_method", method)
    scoring = config.get("scoring_func", "sigmoid" if method == "noaux_tc" else "softmax")
    if method not in METHODS or scoring not in ("softmax", "sigmoid"):
        raise ModelError(
            f"{config.architecture}: topk_method {method!r} with scoring_func {scoring!r} is not "
            f"supported; known: {', '.join(METHODS)}, with softmax or sigmoid"
        )
    normalised = config.flag("norm_topk_prob", method == "noaux_tc")
    scale = config.number("routed_scaling_factor", 1.0, low=1e-6, high=1e6)
    if normalised and scale != 1 and method != "noaux_tc":
        raise ModelError(
            f"{config.architecture}: norm_topk_prob with routed_scaling_factor {scale:g} means "
            f"different things in different sources for topk_method {method!r}; not supported"
        )
    groups = None
    total, chosen = config.positive("n_group", 1), config.positive("topk_group", 1)
    if method != "greedy":
        groups = ExpertGroups(total, chosen, "top2_sum" if method == "noaux_tc" else "max")
    fields = {"scoring": scoring, "normalised": normalised, "scale": scale, "groups": groups}
    return fields, method == "noaux_tc"
