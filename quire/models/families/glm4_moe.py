"""GLM-4.5 and Solar Open: grouped-query attention and the experts of DeepSeek-V3.

GLM rotates a part of each head.

Source: the Glm4MoeForCausalLM and SolarOpenForCausalLM configs of transformers.
"""

from __future__ import annotations

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, decoder, grouped_attention, rms_norm
from quire.models.families.deepseek_experts import METHODS, TINY_EXPERTS, deepseek_experts
from quire.models.families.latent import next_token_layers
from quire.models.families.parts import head_dim, num_layers
from quire.models.families.rope_config import read_rope
from quire.models.registry import family
from quire.models.spec import ModelSpec

__all__ = ["glm4_moe", "solar_open"]

PARTIAL = {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}


@family("Glm4MoeForCausalLM", tiny={**TINY, **TINY_EXPERTS, **PARTIAL, "use_qk_norm": True})
def glm4_moe(config: ConfigReader) -> ModelSpec:
    """GLM-4.5, GLM-4.5-Air, GLM-4.6 and GLM-4.7."""
    attention = grouped_attention(
        config,
        qkv_bias=config.flag("attention_bias"),
        qk_norm="heads" if config.flag("use_qk_norm") else None,
    )
    mlp = deepseek_experts(config, METHODS["noaux_tc"])
    return decoder(config, attention=attention, mlp=mlp, unused=next_token_layers(config))


@family("SolarOpenForCausalLM", tiny={**TINY, **TINY_EXPERTS, "head_dim": 16})
def solar_open(config: ConfigReader) -> ModelSpec:
    """Solar Open 100B: experts in every layer, one of them shared."""
    experts = config.renamed({}, n_shared_experts=config.integer("n_shared_experts", 1))
    dim = head_dim(config, 128)
    rope = read_rope(config, dim, theta=1e6)
    attention = grouped_attention(
        config,
        qkv_bias=config.flag("attention_bias"),
        dim=dim,
        ropes=[rope] * num_layers(config),
    )
    norm = rms_norm(config, eps=1e-5)
    return decoder(
        config, attention=attention, norm=norm, mlp=deepseek_experts(experts, METHODS["noaux_tc"])
    )
