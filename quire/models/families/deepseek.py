"""DeepSeek V2 and V3: latent attention, and experts behind the first blocks.

Kimi K2 has the architecture and the names of V3.

Source: the configs of DeepseekV2ForCausalLM and DeepseekV3ForCausalLM in transformers.
"""

from __future__ import annotations

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, MlpMaker, decoder, dense_mlp
from quire.models.families.latent import LATENT_TINY, latent_attention
from quire.models.families.parts import num_layers
from quire.models.registry import family
from quire.models.spec import ModelSpec

__all__ = ["deepseek_v2", "deepseek_v3"]

TINY_DEEPSEEK = {**TINY, **LATENT_TINY, "first_k_dense_replace": 2}


@family("DeepseekV2ForCausalLM", tiny=TINY_DEEPSEEK)
def deepseek_v2(config: ConfigReader) -> ModelSpec:
    """DeepSeek-V2, V2-Lite, V2.5 and Coder-V2."""
    attention = latent_attention(config, "interleaved")
    return decoder(config, attention=attention, mlp=_feed_forward(config))


@family("DeepseekV3ForCausalLM", tiny=TINY_DEEPSEEK)
def deepseek_v3(config: ConfigReader) -> ModelSpec:
    """DeepSeek-V3, V3.1 and R1, and Kimi-K2."""
    interleaved = config.flag("rope_interleave", True)
    attention = latent_attention(config, "interleaved" if interleaved else "half")
    return decoder(config, attention=attention, mlp=_feed_forward(config))


def _feed_forward(config: ConfigReader) -> MlpMaker:
    first = config.integer("first_k_dense_replace", 0)
    if first < num_layers(config):
        raise ModelError(
            f"{config.architecture}: first_k_dense_replace is {first}, so there are experts in the "
            "layers behind, which is not supported yet"
        )
    for key in ("n_routed_experts", "n_shared_experts", "moe_intermediate_size"):
        config.get(key)
    return dense_mlp(config)
