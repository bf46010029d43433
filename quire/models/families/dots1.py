"""dots.llm1: Qwen3's attention, and the experts of DeepSeek-V3.

Source: the Dots1ForCausalLM config of transformers.
"""

from __future__ import annotations

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, decoder, grouped_attention
from quire.models.families.deepseek_experts import METHODS, TINY_EXPERTS, deepseek_experts
from quire.models.families.parts import num_layers
from quire.models.families.windows import FULL, SLIDING, layer_types, sliding_window, windows_of
from quire.models.registry import family
from quire.models.spec import ModelSpec

__all__ = ["dots1"]


@family("Dots1ForCausalLM", tiny={**TINY, **TINY_EXPERTS, "sliding_window": 8})
def dots1(config: ConfigReader) -> ModelSpec:
    """dots.llm1; only layers from max_window_layers on have windows, if any."""
    layers, first = num_layers(config), config.integer("max_window_layers", 62)
    has_window = sliding_window(config) is not None
    default = [SLIDING if has_window and i >= first else FULL for i in range(layers)]
    scoring = config.get("scoring_func", "sigmoid")
    if scoring not in ("sigmoid", "noaux_tc"):  # published configs have the method's name here
        raise ModelError(f"{config.architecture}: scoring_func is {scoring!r}; expected 'noaux_tc'")
    bias, normalised = config.flag("attention_bias"), config.flag("norm_topk_prob")
    experts = config.renamed({}, norm_topk_prob=normalised, scoring_func="sigmoid")
    attention = grouped_attention(
        config,
        qkv_bias=bias,
        output_bias=bias,
        qk_norm="heads",
        windows=windows_of(config, layer_types(config, default)),
    )
    return decoder(config, attention=attention, mlp=deepseek_experts(experts, METHODS["noaux_tc"]))
