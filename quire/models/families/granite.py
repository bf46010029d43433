"""Granite 3: the Llama block with four multipliers.

Source: the GraniteForCausalLM config of transformers.
"""

from __future__ import annotations

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, MlpMaker, decoder, dense_mlp, grouped_attention
from quire.models.families.parts import head_dim, num_layers
from quire.models.families.rope_config import read_rope
from quire.models.registry import family
from quire.models.rope import Rope
from quire.models.spec import ModelSpec

__all__ = ["granite"]

TINY_GRANITE = {
    **TINY,
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.2,
    "residual_multiplier": 0.3,
    "logits_scaling": 4.0,
}


@family("GraniteForCausalLM", tiny=TINY_GRANITE)
def granite(config: ConfigReader) -> ModelSpec:
    """Granite 3."""
    mlp = dense_mlp(config, config.flag("mlp_bias"))
    return _granite(config, read_rope(config, head_dim(config)), mlp)


def _granite(config: ConfigReader, rope: Rope | None, mlp: MlpMaker) -> ModelSpec:
    bias, ropes = config.flag("attention_bias"), [rope] * num_layers(config)
    scale = config.number("attention_multiplier", 1.0, low=1e-6, high=1e6)
    return decoder(
        config,
        attention=grouped_attention(
            config, qkv_bias=bias, output_bias=bias, scale=scale, ropes=ropes
        ),
        mlp=mlp,
        embedding_scale=config.number("embedding_multiplier", 1.0, low=1e-6, high=1e6),
        residual_scale=config.number("residual_multiplier", 1.0, low=1e-6, high=1e6),
        logit_scale=1 / config.number("logits_scaling", 1.0, low=1e-6, high=1e6),
    )
