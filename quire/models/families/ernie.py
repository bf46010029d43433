"""ERNIE 4.5 dense: the Llama block, rotated in neighbouring pairs.

Source: the Ernie4_5ForCausalLM config of transformers.
"""

from __future__ import annotations

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, decoder, dense_mlp, grouped_attention, rms_norm
from quire.models.families.parts import head_dim, num_layers
from quire.models.families.rope_config import read_rope
from quire.models.registry import family
from quire.models.spec import ModelSpec

__all__ = ["ernie"]


@family("Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM", tiny={**TINY, "head_dim": 16})
def ernie(config: ConfigReader) -> ModelSpec:
    """ERNIE 4.5 0.3B."""
    if config.number("compression_ratio", 1.0) != 1:
        raise ModelError(f"{config.architecture}: compression_ratio other than 1 is not supported")
    dim, bias = head_dim(config, 128), config.flag("use_bias")
    rope = read_rope(config, dim, pairing="interleaved", theta=500000.0)
    attention = grouped_attention(
        config, dim=dim, qkv_bias=bias, output_bias=bias, ropes=[rope] * num_layers(config)
    )
    mlp, norm = dense_mlp(config, bias), rms_norm(config, eps=1e-5)
    return decoder(config, attention=attention, mlp=mlp, norm=norm, tied=True)
