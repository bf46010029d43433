"""Granite 4 H: Mamba 2 layers with a few of attention among them, and Granite's four multipliers.

Source: the config of GraniteMoeHybridForCausalLM in transformers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families import parts
from quire.models.families.decoder import TINY, decoder, grouped_attention
from quire.models.families.granite_moe import SHARED, shared_mlp
from quire.models.families.mamba2 import FUSED, Mamba2Config, mamba2, read_sizes
from quire.models.families.rope_config import read_rope
from quire.models.registry import family
from quire.models.rope import Rope
from quire.models.spec import ModelSpec, TokenMixer
from quire.models.stored_as import stored_as

__all__ = ["granite_hybrid"]

TINY_GRANITE: dict[str, Any] = {
    **TINY,
    "num_hidden_layers": 4,
    "layer_types": ["mamba", "mamba", "attention", "mamba"],
    "num_local_experts": 0,
    "shared_intermediate_size": 96,
    "position_embedding_type": "nope",
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 24,
    "mamba_n_groups": 1,
}
LAYOUT = replace(SHARED, fused={**SHARED.fused, **FUSED})
KINDS = {"mamba": True, "linear_attention": True, "attention": False, "full_attention": False}


@family("GraniteMoeHybridForCausalLM", tiny=TINY_GRANITE)
def granite_hybrid(config: ConfigReader) -> ModelSpec:
    """Granite 4 H, dense or with experts."""
    bias, kinds = config.flag("attention_bias"), _layer_kinds(config)
    sizes = _mamba_sizes(config, kinds)
    attention = grouped_attention(
        config,
        qkv_bias=bias,
        output_bias=bias,
        scale=config.number("attention_multiplier", 1.0, low=1e-6, high=1e6),
        ropes=[_rope(config)] * len(kinds),
    )

    def mixer(layer: int, prefix: str) -> TokenMixer:
        if KINDS[kinds[layer]]:
            assert sizes is not None, "a layer is of Mamba"
            return mamba2(sizes, prefix.removesuffix("self_attn.") + "mamba.")
        return attention(layer, prefix)

    spec = decoder(
        config,
        attention=mixer,
        mlp=shared_mlp(config),
        embedding_scale=config.number("embedding_multiplier", 1.0, low=1e-6, high=1e6),
        residual_scale=config.number("residual_multiplier", 1.0, low=1e-6, high=1e6),
        logit_scale=1 / config.number("logits_scaling", 1.0, low=1e-6, high=1e6),
    )
    return stored_as(spec, LAYOUT)


def _rope(config: ConfigReader) -> Rope | None:
    """The rotation of the attention layers; Granite 4 H has none."""
    rope = read_rope(config, parts.head_dim(config))
    kind = config.get("position_embedding_type")
    if kind not in (None, "nope", "rope"):
        raise ModelError(f"{config.architecture}: position_embedding_type is {kind!r}")
    return rope if kind == "rope" else None


def _mamba_sizes(config: ConfigReader, kinds: list[str]) -> Mamba2Config | None:
    """Those of the Mamba layers; None, whatever config.json says of them, where there are none."""
    if any(KINDS[kind] for kind in kinds):
        return read_sizes(config)
    for key in config:
        if key.startswith("mamba_") or key == "time_step_limit":
            config.get(key)
    return None


def _layer_kinds(config: ConfigReader) -> list[str]:
    layers = parts.num_layers(config)
    kinds = config.get("layer_types") or config.get("layers_block_type")
    if not isinstance(kinds, list) or len(kinds) != layers or any(k not in KINDS for k in kinds):
        raise ModelError(
            f"{config.architecture}: layer_types is {kinds!r}; expected {layers} of "
            f"{', '.join(KINDS)}"
        )
    if all(KINDS[kind] for kind in kinds):
        raise ModelError(f"{config.architecture}: layer_types names no attention layer")
    return kinds
