"""GLM-4 in transformers' layout: half of each head rotated in neighbouring pairs.

Source: the GlmForCausalLM and Glm4ForCausalLM configs of transformers.
"""

from __future__ import annotations

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import (
    PRE_NORMS,
    TINY,
    BlockNorms,
    decoder,
    dense_mlp,
    grouped_attention,
    rms_norm,
)
from quire.models.families.parts import head_dim, num_layers
from quire.models.families.rope_config import read_rope
from quire.models.places import Layout
from quire.models.registry import family
from quire.models.spec import ModelSpec
from quire.models.stored_as import stored_as

__all__ = ["glm", "glm4"]

LAYOUT = Layout(fused={"mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj")})
SANDWICH = BlockNorms(
    attention="input_layernorm",
    mlp="post_attention_layernorm",
    attention_output="post_self_attn_layernorm",
    mlp_output="post_mlp_layernorm",
)
TINY_GLM = {**TINY, "head_dim": 16}


@family("GlmForCausalLM", tiny=TINY_GLM)
def glm(config: ConfigReader) -> ModelSpec:
    """GLM-4-9B (hf), GLM-Edge."""
    return _glm(config, PRE_NORMS)


@family("Glm4ForCausalLM", tiny=TINY_GLM)
def glm4(config: ConfigReader) -> ModelSpec:
    """GLM-4-0414 and GLM-Z1: norms behind each part of a block too."""
    return _glm(config, SANDWICH)


def _glm(config: ConfigReader, block_norms: BlockNorms) -> ModelSpec:
    dim = head_dim(config, 128)
    attention = grouped_attention(
        config,
        dim=dim,
        qkv_bias=config.flag("attention_bias", True),
        ropes=[read_rope(config, dim, pairing="interleaved", partial=0.5)] * num_layers(config),
    )
    spec = decoder(
        config,
        attention=attention,
        mlp=dense_mlp(config),
        norm=rms_norm(config, eps=1.5625e-7),
        block_norms=block_norms,
    )
    return stored_as(spec, LAYOUT)
