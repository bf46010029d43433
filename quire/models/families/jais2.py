"""Jais 2: layer norms, biases, and an MLP without a gate with squared ReLU in it.

Source: the Jais2ForCausalLM config of transformers.
"""

from __future__ import annotations

from functools import partial

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, decoder, grouped_attention
from quire.models.families.parts import activation, layer_norm, plain_mlp
from quire.models.registry import family
from quire.models.spec import MLP, ModelSpec

__all__ = ["jais2"]


@family("Jais2ForCausalLM", tiny={**TINY, "head_dim": 16})
def jais2(config: ConfigReader) -> ModelSpec:
    """Jais 2 8B and 70B."""
    width, inner = config.positive("hidden_size"), config.positive("intermediate_size")
    bias, mlp_bias = config.flag("attention_bias", True), config.flag("mlp_bias", True)
    eps = config.number("layer_norm_eps", 1e-5, low=0.0, high=1.0)
    kind = activation(config, default="relu2")

    def mlp(layer: int, prefix: str) -> MLP:
        return plain_mlp(prefix, width, inner, mlp_bias, kind)

    attention = grouped_attention(config, qkv_bias=bias, output_bias=bias)
    return decoder(config, attention=attention, mlp=mlp, norm=partial(layer_norm, eps=eps))
