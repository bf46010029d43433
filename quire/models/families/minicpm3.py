"""MiniCPM3: latent attention in a decoder whose embeddings, blocks and logits are scaled.

Source: the MiniCPM3ForCausalLM config of transformers.
"""

from __future__ import annotations

import math

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, decoder, dense_mlp
from quire.models.families.latent import LATENT_TINY, latent_attention
from quire.models.families.parts import num_layers
from quire.models.registry import family
from quire.models.spec import ModelSpec

__all__ = ["minicpm3"]

TINY_MINICPM3 = {**TINY, **LATENT_TINY, "scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 16}


@family("MiniCPM3ForCausalLM", tiny=TINY_MINICPM3)
def minicpm3(config: ConfigReader) -> ModelSpec:
    """MiniCPM3-4B."""
    width, heads = config.positive("hidden_size"), config.positive("num_attention_heads")
    return decoder(
        config,
        attention=latent_attention(config, "half", value_dims=width // heads),
        mlp=dense_mlp(config, config.flag("mlp_bias")),
        embedding_scale=config.number("scale_emb"),
        residual_scale=config.number("scale_depth") / math.sqrt(num_layers(config)),
        logit_scale=config.positive("dim_model_base") / width,
        tied=True,
    )
