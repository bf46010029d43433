"""Mistral: the Llama block with one sliding window on every layer.

Source: the MistralForCausalLM config of transformers.
"""

from __future__ import annotations

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, dense_decoder
from quire.models.families.parts import num_layers
from quire.models.families.windows import sliding_window
from quire.models.registry import family
from quire.models.spec import ModelSpec

__all__ = ["mistral"]


@family("MistralForCausalLM", tiny={**TINY, "head_dim": 16, "sliding_window": 8})
def mistral(config: ConfigReader) -> ModelSpec:
    """Mistral 7B, Nemo and other dense models; the window is null in the later ones."""
    windows = (sliding_window(config),) * num_layers(config)
    return dense_decoder(config, windows=windows)
