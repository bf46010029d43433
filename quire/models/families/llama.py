"""Llama: 1 to 3.2, Code Llama, Yi, and the many checkpoints that share their config.

Source: the LlamaForCausalLM config of transformers, old and new spelling.
"""

from __future__ import annotations

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, dense_decoder
from quire.models.registry import family
from quire.models.spec import ModelSpec

__all__ = ["llama"]


@family("LlamaForCausalLM", "LLaMAForCausalLM", tiny={**TINY, "head_dim": 16})
def llama(config: ConfigReader) -> ModelSpec:
    """Llama 1, 2, 3, 3.1, 3.2, Code Llama, Yi, DeepSeek-LLM."""
    bias = config.flag("attention_bias")
    return dense_decoder(config, qkv_bias=bias, output_bias=bias, mlp_bias=config.flag("mlp_bias"))
