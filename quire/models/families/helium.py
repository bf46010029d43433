"""Helium: the Llama block, rotated in neighbouring pairs.

Source: the HeliumForCausalLM config of transformers.
"""

from __future__ import annotations

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, decoder, dense_mlp, grouped_attention, rms_norm
from quire.models.families.parts import head_dim, num_layers
from quire.models.families.rope_config import read_rope
from quire.models.registry import family
from quire.models.spec import ModelSpec

__all__ = ["helium"]


@family("HeliumForCausalLM", tiny={**TINY, "head_dim": 16})
def helium(config: ConfigReader) -> ModelSpec:
    """Helium 1, 2B."""
    rope = read_rope(config, head_dim(config, 128), pairing="interleaved", theta=100000.0)
    attention = grouped_attention(
        config,
        qkv_bias=config.flag("attention_bias"),
        dim=head_dim(config, 128),
        ropes=[rope] * num_layers(config),
    )
    mlp = dense_mlp(config, config.flag("mlp_bias"))
    return decoder(config, attention=attention, mlp=mlp, norm=rms_norm(config, eps=1e-8))
