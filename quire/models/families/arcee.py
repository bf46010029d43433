"""Arcee: the Llama block with an MLP without a gate, and squared ReLU in it.

Source: the ArceeForCausalLM config of transformers.
"""

from __future__ import annotations

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, decoder, grouped_attention, rms_norm
from quire.models.families.parts import activation, plain_mlp
from quire.models.registry import family
from quire.models.spec import MLP, ModelSpec

__all__ = ["arcee"]


@family("ArceeForCausalLM", tiny={**TINY, "head_dim": 16})
def arcee(config: ConfigReader) -> ModelSpec:
    """AFM 4.5B."""
    bias, mlp_bias = config.flag("attention_bias"), config.flag("mlp_bias")
    width, inner = config.positive("hidden_size"), config.positive("intermediate_size")
    kind = activation(config, default="relu2")

    def mlp(layer: int, prefix: str) -> MLP:
        return plain_mlp(prefix, width, inner, mlp_bias, kind)

    attention = grouped_attention(config, qkv_bias=bias, output_bias=bias)
    return decoder(config, attention=attention, mlp=mlp, norm=rms_norm(config, eps=1e-5))
