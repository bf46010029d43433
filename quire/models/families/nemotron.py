"""Nemotron: layer norms of 1 + weight, half of each head rotated, squared ReLU without a gate.

Source: the NemotronForCausalLM config of transformers.
"""

from __future__ import annotations

from functools import partial

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, decoder, grouped_attention
from quire.models.families.parts import activation, head_dim, layer_norm, num_layers, plain_mlp
from quire.models.families.rope_config import read_rope
from quire.models.registry import family
from quire.models.spec import MLP, ModelSpec

__all__ = ["nemotron"]


@family("NemotronForCausalLM", tiny={**TINY, "head_dim": 16})
def nemotron(config: ConfigReader) -> ModelSpec:
    """Nemotron-4 15B and 340B, and the Minitron models of their kind."""
    width, inner = config.positive("hidden_size"), config.positive("intermediate_size")
    bias, mlp_bias = config.flag("attention_bias"), config.flag("mlp_bias")
    kind = activation(config, default="relu2")
    rope = read_rope(config, head_dim(config), partial=0.5)
    eps = config.number("norm_eps", 1e-5, low=0.0, high=1.0)

    def mlp(layer: int, prefix: str) -> MLP:
        return plain_mlp(prefix, width, inner, mlp_bias, kind)

    attention = grouped_attention(
        config, qkv_bias=bias, output_bias=bias, ropes=[rope] * num_layers(config)
    )
    norm = partial(layer_norm, eps=eps, offset=1.0)
    return decoder(config, attention=attention, mlp=mlp, norm=norm)
