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

OF_OTHERS = (
    *("add_classification_head", "class_num", "pool_type", "skip_cls_token", "dense_list"),
    *("anyres_pooling_size", "anyres_vit_max_image_size", "anyres_vit_two_views"),
    *("cla_share_factor", "attention_head_dim", "query_key_layernorm", "xdrope_section"),
    *("im_start_id", "im_end_id", "im_newline_id", "text_start_id", "text_end_id"),
    *("video_start_id", "video_end_id", "mask_init_id", "pad_id", "org_vocab_size"),
    *("vit_add_patchemb_bias", "eod_token_id", "sep_token_id"),
)
"""Keys of classifiers, of models that see, and of what is switched off by another."""


@family("HunYuanDenseV1ForCausalLM", tiny={**TINY, "head_dim": 16})
def hunyuan(config: ConfigReader) -> ModelSpec:
    """Hunyuan 0.5B to 7B."""
    norm = rms_norm(config, eps=1e-5)
    return decoder(
        config, attention=hunyuan_attention(config, norm), mlp=dense_mlp(config), norm=norm
    )


def hunyuan_attention(config: ConfigReader, norm: NormMaker) -> GroupedMaker:
    """Of the models with experts too."""
    bias, normed = config.flag("attention_bias"), config.flag("use_qk_norm", True)
    config.expect("qk_norm", normed)
    config.expect("use_rotary_pos_emb", True)
    config.expect("norm_type", "rms")
    for key in OF_OTHERS:
        config.get(key)
    return grouped_attention(
        config,
        qkv_bias=bias,
        output_bias=bias,
        qk_norm="heads" if normed else None,
        qk_norm_names=("query_layernorm", "key_layernorm"),
        norm=norm,
        norm_rotated=True,
    )
