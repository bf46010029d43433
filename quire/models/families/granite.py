"""Granite 3 and HyperCLOVA X: the Llama block with four multipliers.

HyperCLOVA X has norms behind each part of a block too.

Source: the GraniteForCausalLM and HyperCLOVAXForCausalLM configs of transformers.
"""

from __future__ import annotations

from dataclasses import replace

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import (
    PRE_NORMS,
    TINY,
    BlockNorms,
    MlpMaker,
    decoder,
    dense_mlp,
    grouped_attention,
)
from quire.models.families.parts import head_dim, num_layers
from quire.models.families.rope_config import read_rope
from quire.models.registry import family
from quire.models.rope import Rope
from quire.models.spec import ModelSpec

__all__ = ["granite", "hyperclovax"]

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


@family("HyperCLOVAXForCausalLM", tiny=TINY_GRANITE)
def hyperclovax(config: ConfigReader) -> ModelSpec:
    """HyperCLOVA X SEED Think, whose logits are multiplied by their scale."""
    mlp, dim = dense_mlp(config, config.flag("mlp_bias")), head_dim(config)
    scale = config.number("attention_multiplier", dim**-0.5, low=1e-6, high=1e6)
    logit_scale = config.number("logits_scaling", 1.0, low=1e-6, high=1e6)
    config = config.renamed({}, attention_multiplier=scale, logits_scaling=1 / logit_scale)
    norms = PRE_NORMS
    if config.flag("use_post_norm", True):
        norms = replace(PRE_NORMS, attention_output="post_norm1", mlp_output="post_norm2")
    spec = _granite(config, read_rope(config, dim), mlp, norms)
    return replace(spec, logit_scale=logit_scale)


def _granite(
    config: ConfigReader, rope: Rope | None, mlp: MlpMaker, block_norms: BlockNorms = PRE_NORMS
) -> ModelSpec:
    bias, ropes = config.flag("attention_bias"), [rope] * num_layers(config)
    scale = config.number("attention_multiplier", 1.0, low=1e-6, high=1e6)
    return decoder(
        config,
        attention=grouped_attention(
            config, qkv_bias=bias, output_bias=bias, scale=scale, ropes=ropes
        ),
        mlp=mlp,
        block_norms=block_norms,
        embedding_scale=config.number("embedding_multiplier", 1.0, low=1e-6, high=1e6),
        residual_scale=config.number("residual_multiplier", 1.0, low=1e-6, high=1e6),
        logit_scale=1 / config.number("logits_scaling", 1.0, low=1e-6, high=1e6),
    )
