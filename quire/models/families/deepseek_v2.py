"""DeepSeek-V2: latent attention, and experts in groups behind the first blocks.

Source: the DeepseekV2ForCausalLM config of transformers; arXiv:2405.04434.
"""

from __future__ import annotations

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, decoder
from quire.models.families.deepseek_experts import TINY_EXPERTS, deepseek_experts
from quire.models.families.latent import LATENT_TINY, latent_attention
from quire.models.registry import family
from quire.models.spec import ModelSpec

__all__ = ["deepseek_v2"]


@family("DeepseekV2ForCausalLM", tiny={**TINY, **LATENT_TINY, **TINY_EXPERTS})
def deepseek_v2(config: ConfigReader) -> ModelSpec:
    """DeepSeek-V2, V2-Lite, V2.5 and Coder-V2."""
    attention = latent_attention(config, "interleaved")
    return decoder(config, attention=attention, mlp=deepseek_experts(config))
