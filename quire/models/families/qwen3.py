"""Qwen3: the Llama block with an RMS norm on each query and key head before the rotation.

Source: the Qwen3ForCausalLM config of transformers.
"""

from __future__ import annotations

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, dense_decoder
from quire.models.families.windows import layer_windows
from quire.models.registry import family
from quire.models.spec import ModelSpec

__all__ = ["qwen3"]


@family("Qwen3ForCausalLM", tiny={**TINY, "head_dim": 32})
def qwen3(config: ConfigReader) -> ModelSpec:
    """Qwen3 dense models."""
    bias = config.flag("attention_bias")
    config.expect("use_qk_norm", True)
    return dense_decoder(
        config, qkv_bias=bias, output_bias=bias, qk_norm=True, windows=layer_windows(config)
    )
