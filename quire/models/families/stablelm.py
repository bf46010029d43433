"""StableLM: layer norms before the parts of a block, a quarter of each head rotated.

Source: the StableLmForCausalLM config of transformers.
"""

from __future__ import annotations

from functools import partial

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, decoder, dense_mlp, grouped_attention
from quire.models.families.parts import head_dim, layer_norm, num_layers
from quire.models.families.rope_config import read_rope
from quire.models.registry import family
from quire.models.spec import ModelSpec

__all__ = ["stablelm"]


@family("StableLmForCausalLM", "StableLMEpochForCausalLM", tiny=TINY)
def stablelm(config: ConfigReader) -> ModelSpec:
    """StableLM 3B and StableLM 2 1.6B, whose parts of a block follow each other."""
    for key in ("use_parallel_residual", "qk_layernorm"):
        if config.flag(key):
            raise ModelError(f"{config.architecture}: {key} is not supported; expected false")
    share = config.number("rope_pct", 0.25, low=0.0, high=1.0)  # older names of two keys
    eps = config.number("norm_eps", 1e-5, low=0.0, high=1.0)
    rope = read_rope(config, head_dim(config), partial=share)
    attention = grouped_attention(
        config, qkv_bias=config.flag("use_qkv_bias"), ropes=[rope] * num_layers(config)
    )
    eps = config.number("layer_norm_eps", eps, low=0.0, high=1.0)
    return decoder(
        config, attention=attention, mlp=dense_mlp(config), norm=partial(layer_norm, eps=eps)
    )
