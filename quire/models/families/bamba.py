"""Bamba: Mamba 2 layers with a few of attention among them, half of each head rotated.

Source: the config of BambaForCausalLM in transformers.
"""

from __future__ import annotations

from typing import Any

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families import parts
from quire.models.families.decoder import TINY, decoder, dense_mlp, grouped_attention
from quire.models.families.mamba2 import FUSED, mamba2, read_sizes
from quire.models.families.rope_config import read_rope
from quire.models.places import Layout
from quire.models.registry import family
from quire.models.spec import ModelSpec, TokenMixer
from quire.models.stored_as import stored_as

__all__ = ["bamba"]

TINY_BAMBA: dict[str, Any] = {
    **TINY,
    "num_hidden_layers": 4,
    "attn_layer_indices": [1],
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 24,
}
LAYOUT = Layout(
    names={
        "model.norm": "model.final_layernorm",
        "post_attention_layernorm": "pre_ff_layernorm",
        **{f"mlp.{each}_proj": f"feed_forward.{each}_proj" for each in ("gate", "up", "down")},
    },
    fused=FUSED,
)


@family("BambaForCausalLM", tiny=TINY_BAMBA)
def bamba(config: ConfigReader) -> ModelSpec:
    """Bamba models."""
    layers, indices = parts.num_layers(config), config.get("attn_layer_indices", [])
    if not isinstance(indices, list) or not indices or any(i not in range(layers) for i in indices):
        raise ModelError(
            f"{config.architecture}: attn_layer_indices is {indices!r}; expected some of "
            f"{layers} layers"
        )
    config.get("z_loss_coefficient")  # of training
    dim = parts.head_dim(config)
    rotated = config.get("attn_rotary_emb", dim // 2)
    if rotated != dim // 2:
        raise ModelError(
            f"{config.architecture}: attn_rotary_emb is {rotated!r}; expected half of a head, "
            f"{dim // 2}"
        )
    rope = read_rope(config, dim, partial=0.5)
    bias, sizes = config.flag("attention_bias"), read_sizes(config)
    attention = grouped_attention(config, qkv_bias=bias, output_bias=bias, ropes=[rope] * layers)

    def mixer(layer: int, prefix: str) -> TokenMixer:
        if layer in indices:
            return attention(layer, prefix)
        return mamba2(sizes, prefix.removesuffix("self_attn.") + "mamba.")

    mlp = dense_mlp(config, config.flag("mlp_bias"))
    return stored_as(decoder(config, attention=mixer, mlp=mlp), LAYOUT)
