"""Granite-MoE: the Llama block with experts and Granite's four multipliers.

Source: the GraniteMoeForCausalLM and GraniteMoeSharedForCausalLM configs of transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, MlpMaker, decoder, grouped_attention
from quire.models.families.experts import expert_count, expert_mlps, in_stacks, router
from quire.models.families.parts import activation, gated_mlp
from quire.models.places import Layout, Place
from quire.models.registry import family
from quire.models.spec import GatedMLP, MixtureOfExperts, ModelSpec
from quire.models.stored_as import stored_as

__all__ = ["SHARED", "granite_moe", "granite_moe_shared", "shared_mlp"]

TINY_SHARED: dict[str, Any] = {
    **TINY,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "shared_intermediate_size": 48,
}
SHARED = Layout(
    names={"mlp.down_proj": "shared_mlp.output_linear"},
    fused={"shared_mlp.input_linear": ("mlp.gate_proj", "mlp.up_proj")},
)
"""How checkpoints store the MLP that every token meets."""


@family(
    "GraniteMoeForCausalLM",
    tiny={
        **TINY,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "embedding_multiplier": 12.0,
        "attention_multiplier": 0.0625,
        "residual_multiplier": 0.22,
        "logits_scaling": 6.0,
    },
)
def granite_moe(config: ConfigReader) -> ModelSpec:
    """Granite 3.0 and 3.1 MoE."""
    bias = config.flag("attention_bias")
    attention = grouped_attention(
        config,
        qkv_bias=bias,
        output_bias=bias,
        scale=config.number("attention_multiplier", 1.0, low=1e-6, high=1e6),
    )
    return decoder(
        config,
        attention=attention,
        mlp=_granite_experts(config),
        embedding_scale=config.number("embedding_multiplier", 1.0, low=1e-6, high=1e6),
        residual_scale=config.number("residual_multiplier", 1.0, low=1e-6, high=1e6),
        logit_scale=1 / config.number("logits_scaling", 1.0, low=1e-6, high=1e6),
    )


def _granite_experts(config: ConfigReader) -> Callable[[int, str], MixtureOfExperts]:
    """Experts stored in two tensors, weighed by a softmax over those chosen."""
    count = expert_count(config, "num_local_experts")
    top_k, inner = config.positive("num_experts_per_tok"), config.positive("intermediate_size")
    kind = activation(config)

    def mixture(layer: int, prefix: str) -> MixtureOfExperts:
        prefix = prefix.removesuffix("mlp.") + "block_sparse_moe."
        mlps = expert_mlps(config, prefix + "experts.", count, inner, kind=kind)
        stored = in_stacks(mlps, prefix + "input_linear.weight", prefix + "output_linear.weight")
        gate = router(config, prefix + "router", count, top_k, normalised=True)
        place = Place(prefix + "router.layer.weight", gate.weight.shape)
        return MixtureOfExperts(replace(gate, weight=replace(gate.weight, stored=(place,))), stored)

    return mixture


@family("GraniteMoeSharedForCausalLM", tiny=TINY_SHARED)
def granite_moe_shared(config: ConfigReader) -> ModelSpec:
    """Granite 3 MoE with an expert that every token meets."""
    if not config.integer("shared_intermediate_size", 0):
        return granite_moe(config)
    spec, mlp = granite_moe(config), shared_mlp(config)
    blocks = tuple(
        replace(block, mlp=mlp(i, f"model.layers.{i}.mlp.")) for i, block in enumerate(spec.blocks)
    )
    return stored_as(replace(spec, blocks=blocks), SHARED)


def shared_mlp(config: ConfigReader) -> MlpMaker:
    """One gated MLP, and experts beside it where there are any."""
    width, inner = config.positive("hidden_size"), config.positive("shared_intermediate_size")
    kind = activation(config)

    def shared(layer: int, prefix: str) -> GatedMLP:
        return gated_mlp(prefix, width, inner, kind=kind)

    if config.integer("num_local_experts", 8) == 0:
        config.get("num_experts_per_tok")  # of experts, which no layer has
        config.get("intermediate_size")
        return shared
    experts = _granite_experts(config)
    return lambda layer, prefix: replace(experts(layer, prefix), shared=shared(layer, prefix))
