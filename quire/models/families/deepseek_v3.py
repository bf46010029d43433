"""DeepSeek-V3: latent attention, and experts that a bias helps to choose.  Kimi-K2 is the same.

Source: the DeepseekV3ForCausalLM config of transformers; arXiv:2412.19437.
"""

from __future__ import annotations

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, decoder
from quire.models.families.deepseek_experts import METHODS, TINY_EXPERTS, deepseek_experts
from quire.models.families.latent import LATENT_TINY, latent_attention, next_token_layers
from quire.models.registry import family
from quire.models.spec import ModelSpec

__all__ = ["deepseek_v3"]

TINY_V3 = {**TINY, **LATENT_TINY, **TINY_EXPERTS, "n_group": 4, "topk_group": 2}


@family("DeepseekV3ForCausalLM", tiny=TINY_V3)
def deepseek_v3(config: ConfigReader) -> ModelSpec:
    """DeepSeek-V3, V3.1 and R1, and Kimi-K2."""
    interleaved = config.flag("rope_interleave", True)
    return decoder(
        config,
        attention=latent_attention(config, "interleaved" if interleaved else "half"),
        mlp=deepseek_experts(config, METHODS["noaux_tc"]),
        unused=next_token_layers(config),
    )
