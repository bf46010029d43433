"""Qwen2: the Llama block with biases on q, k and v, and windows in the upper layers if asked.

Source: the Qwen2ForCausalLM config of transformers.
"""

from __future__ import annotations

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, dense_decoder
from quire.models.families.windows import layer_windows
from quire.models.registry import family
from quire.models.spec import ModelSpec

__all__ = ["qwen2"]


@family("Qwen2ForCausalLM", tiny=TINY)
def qwen2(config: ConfigReader) -> ModelSpec:
    """Qwen1.5, Qwen2 and Qwen2.5 dense models."""
    return dense_decoder(config, qkv_bias=True, windows=layer_windows(config))
