"""DeepSeek-MoE: the Llama block with experts in all layers but the first.

Source: the config and shapes of deepseek-moe-16b; arXiv:2401.06066.
"""

from __future__ import annotations

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, decoder, grouped_attention
from quire.models.families.deepseek_experts import TINY_EXPERTS, deepseek_experts
from quire.models.registry import family
from quire.models.spec import ModelSpec

__all__ = ["deepseek"]


@family("DeepseekForCausalLM", tiny={**TINY, **TINY_EXPERTS})
def deepseek(config: ConfigReader) -> ModelSpec:
    """DeepSeek-MoE 16B."""
    bias = config.flag("attention_bias")
    attention = grouped_attention(config, qkv_bias=bias, output_bias=bias)
    return decoder(config, attention=attention, mlp=deepseek_experts(config))
