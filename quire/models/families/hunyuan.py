"""Hunyuan dense: the Llama block with norms of each query and key head behind the rotation.

Source: the HunYuanDenseV1ForCausalLM config of transformers.
"""

from __future__ import annotations

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import (
    TINY,
    GroupedMaker,
    NormMaker,
    decoder,
    dense_mlp,
    grouped_attention,
    rms_norm,
)
from quire.models.registry import family
from quire.models.spec import ModelSpec

__all__ = ["hunyuan", "hunyuan_attention"]


@family("HunYuanDenseV1ForCausalLM", tiny={**TINY, "head_dim": 16})
def hunyuan(config: ConfigReader) -> ModelSpec:
    """Hunyuan 0.5B to 7B."""
    norm = rms_norm(config, eps=1e-5)
    return decoder(
        config, attention=hunyuan_attention(config, norm), mlp=dense_mlp(config), norm=norm
    )


def hunyuan_attention(config: ConfigReader, norm: NormMaker) -> GroupedMaker:
    """Of the models with experts too."""
    bias = config.flag("attention_bias")
    return grouped_attention(
        config,
        qkv_bias=bias,
        output_bias=bias,
        qk_norm="heads" if config.flag("use_qk_norm", True) else None,
        qk_norm_names=("query_layernorm", "key_layernorm"),
        norm=norm,
        norm_rotated=True,
    )
