"""Llama 4, its text model: chunks of attention, layers without rotation, experts of scaled inputs.

Source: the Llama4TextConfig of transformers.
"""

from __future__ import annotations

from dataclasses import replace

from quire.errors import ModelError
from quire.models.attention_rules import QueryRule
from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import (
    TINY,
    AttentionMaker,
    MlpMaker,
    decoder,
    grouped_attention,
    rms_norm,
)
from quire.models.families.experts import (
    chosen_layers,
    expert_count,
    expert_mlps,
    in_stacks,
    router,
)
from quire.models.families.parts import activation, gated_mlp, head_dim, num_layers
from quire.models.families.rope_config import read_rope
from quire.models.registry import family
from quire.models.spec import (
    Attention,
    GatedMLP,
    MixtureOfExperts,
    ModelSpec,
    Norm,
)

__all__ = ["llama4"]


@family(
    "Llama4ForCausalLM",
    tiny={
        **TINY,
        "head_dim": 16,
        "num_local_experts": 4,
        "num_experts_per_tok": 1,
        "intermediate_size_mlp": 96,
        "interleave_moe_layer_step": 2,
        "no_rope_layers": [1, 0],
        "attention_chunk_size": 8,
        "floor_scale": 4,
        "use_qk_norm": True,
    },
)
def llama4(config: ConfigReader) -> ModelSpec:
    """The language models of Llama 4 Scout and Maverick."""
    norm = rms_norm(config, eps=1e-5)
    return decoder(config, attention=_attention(config), mlp=_mlps(config), norm=norm)


def _attention(config: ConfigReader) -> AttentionMaker:
    """Layers that rotate see chunks; the others see all, and scale queries by their position."""
    layers, dim, bias = num_layers(config), head_dim(config, 128), config.flag("attention_bias")
    every = config.positive("no_rope_layer_interval", 4)
    rotates = _flags(config, "no_rope_layers", [(i + 1) % every != 0 for i in range(layers)])
    chunk = config.integer("attention_chunk_size", 8192) or None
    eps = config.number("rms_norm_eps", 1e-5, low=0.0, high=1.0)
    head_norm = Norm(None, eps) if config.flag("use_qk_norm", True) else None
    rule = QueryRule(
        "steps",
        config.positive("floor_scale", 8192),
        config.number("attn_scale", 0.1, low=0.0, high=1e6),
        offset=1,
    )
    tuned = rule if config.flag("attn_temperature_tuning", True) else None
    rope = read_rope(config, dim, pairing="interleaved", theta=500000.0)
    config.get("layer_types")  # says the same as no_rope_layers
    attention = grouped_attention(
        config,
        qkv_bias=bias,
        output_bias=bias,
        dim=dim,
        ropes=[rope if each else None for each in rotates],
    )

    def of_layer(layer: int, prefix: str) -> Attention:
        plain = attention(layer, prefix)
        if not rotates[layer]:
            return replace(plain, query_rule=tuned)
        return replace(
            plain, chunk=chunk, query_norm=head_norm, key_norm=head_norm, norm_rotated=True
        )

    return of_layer


def _mlps(config: ConfigReader) -> MlpMaker:
    """Experts in some layers, beside one that all tokens meet; a wider MLP in the others."""
    count = expert_count(config, "num_local_experts")
    top_k, inner = config.positive("num_experts_per_tok", 1), config.positive("intermediate_size")
    width, kind = config.positive("hidden_size"), activation(config)
    dense = config.positive("intermediate_size_mlp", 16384)
    step = config.positive("interleave_moe_layer_step", 1)
    default = [layer for layer in range(num_layers(config)) if (layer + 1) % step == 0]
    mixed = config.get("moe_layers", default)
    if not isinstance(mixed, list) or not all(isinstance(layer, int) for layer in mixed):
        raise ModelError(f"{config.architecture}: moe_layers is {mixed!r}; expected layers")

    def mixture(layer: int, prefix: str) -> MixtureOfExperts:
        prefix = prefix.removesuffix("mlp.") + "feed_forward."
        mlps = expert_mlps(config, prefix + "experts.", count, inner, kind=kind)
        names = (prefix + "experts.gate_up_proj", prefix + "experts.down_proj")
        return MixtureOfExperts(
            router(config, prefix + "router", count, top_k, scoring="sigmoid"),
            in_stacks(mlps, *names, transposed=True),
            gated_mlp(prefix + "shared_expert.", width, inner, kind=kind),
            scales_inputs=True,
        )

    def plain(layer: int, prefix: str) -> GatedMLP:
        prefix = prefix.removesuffix("mlp.") + "feed_forward."
        return gated_mlp(prefix, width, dense, kind=kind)

    return chosen_layers(lambda layer: layer in mixed, mixture, plain)


def _flags(config: ConfigReader, key: str, default: list[bool]) -> tuple[bool, ...]:
    """One flag per layer, written as 0 or 1."""
    values = config.get(key) or default
    if not isinstance(values, list) or len(values) != len(default):
        raise ModelError(
            f"{config.architecture}: {key} is {values!r}; expected 0 or 1 for each of "
            f"{len(default)} layers"
        )
    return tuple(bool(each) for each in values)
