"""Seed-OSS: the Llama block with biases on q, k and v, and on o only if asked.

Source: the SeedOssForCausalLM config of transformers.
"""

from __future__ import annotations

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, dense_decoder
from quire.models.registry import family
from quire.models.spec import ModelSpec

__all__ = ["seed_oss"]


@family("SeedOssForCausalLM", tiny={**TINY, "head_dim": 16})
def seed_oss(config: ConfigReader) -> ModelSpec:
    """Seed-OSS 36B."""
    return dense_decoder(
        config,
        qkv_bias=config.flag("attention_bias", True),
        output_bias=config.flag("attention_out_bias"),
        mlp_bias=config.flag("mlp_bias"),
    )
