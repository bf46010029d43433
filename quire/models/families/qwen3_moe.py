"""Qwen3-MoE: the Qwen3 block with experts.

Source: the Qwen3MoeForCausalLM config of transformers.
"""

from __future__ import annotations

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, decoder, grouped_attention
from quire.models.families.experts import stacked
from quire.models.families.qwen2_moe import TINY_EXPERTS, qwen_experts
from quire.models.families.windows import layer_windows
from quire.models.registry import family
from quire.models.spec import ModelSpec

__all__ = ["qwen3_moe"]


@family("Qwen3MoeForCausalLM", tiny={**TINY, **TINY_EXPERTS, "head_dim": 32})
def qwen3_moe(config: ConfigReader) -> ModelSpec:
    """Qwen3-30B-A3B, Qwen3-235B-A22B and Qwen3-Coder."""
    bias = config.flag("attention_bias")
    config.expect("use_qk_norm", True)
    attention = grouped_attention(
        config, qkv_bias=bias, output_bias=bias, qk_norm="heads", windows=layer_windows(config)
    )
    mlp = stacked(qwen_experts(config), transposed=None)  # both are Qwen3-VL's
    return decoder(config, attention=attention, mlp=mlp)
