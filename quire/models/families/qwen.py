"""Qwen, the first generation: the Llama block with two rules of its own for long texts.

Source: the configs and tensor names of the Qwen checkpoints; their remote code is not run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quire.errors import ModelError
from quire.models.attention_rules import QueryRule
from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import decoder, dense_mlp, grouped_attention
from quire.models.families.parts import num_layers
from quire.models.families.rope_config import read_rope
from quire.models.places import Layout
from quire.models.registry import family
from quire.models.rope import RopeScaling
from quire.models.spec import Attention, ModelSpec
from quire.models.stored_as import stored_as

__all__ = ["qwen"]

NAMES: Mapping[str, str] = {
    "head_dim": "kv_channels",
    "rms_norm_eps": "layer_norm_epsilon",
    "rope_theta": "rotary_emb_base",
    "partial_rotary_factor": "rotary_pct",
}
"""What other families call it → what config.json does."""

LAYOUT = Layout(
    layer="transformer.h.{}.",
    names={
        "model.embed_tokens": "transformer.wte",
        "input_layernorm": "ln_1",
        "self_attn.o_proj": "attn.c_proj",
        "post_attention_layernorm": "ln_2",
        "mlp.gate_proj": "mlp.w2",
        "mlp.up_proj": "mlp.w1",
        "mlp.down_proj": "mlp.c_proj",
        "model.norm": "transformer.ln_f",
    },
    fused={"attn.c_attn": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")},
)

TINY: Mapping[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "kv_channels": 16,
    "seq_length": 128,
    "max_position_embeddings": 512,
    "use_dynamic_ntk": True,
    "use_logn_attn": True,
    "no_bias": True,
}


@family("QWenLMHeadModel", tiny=TINY)
def qwen(config: ConfigReader) -> ModelSpec:
    """Qwen 1.8B to 72B; intermediate_size counts gate and up together."""
    trained = config.positive("seq_length", 8192)
    longest = config.positive("max_position_embeddings", trained)
    stretches, bias = config.flag("use_dynamic_ntk"), not config.flag("no_bias", True)
    rule = QueryRule("log", trained) if config.flag("use_logn_attn") and trained > 1 else None
    config.expect("scale_attn_weights", True)
    for key in ("onnx_safe", "use_cache_quantization", "use_cache_kernel", "padded_vocab_size"):
        config.get(key)  # of other programs
    config = config.renamed(
        NAMES,
        intermediate_size=config.positive("intermediate_size") // 2,
        num_key_value_heads=config.positive("num_attention_heads"),
        max_position_embeddings=longest if stretches else trained,
    )
    rope = read_rope(config, config.positive("head_dim", 128))
    if rope.dims < 4:
        raise ModelError(f"{config.architecture}: {rope.dims} values of a head are too few to turn")
    if stretches and rope.scaling == RopeScaling():
        rope = replace(rope, scaling=RopeScaling("doubling", original_length=trained))
    plain = grouped_attention(
        config, qkv_bias=True, output_bias=bias, ropes=(rope,) * num_layers(config)
    )

    def attention(layer: int, prefix: str) -> Attention:
        return replace(plain(layer, prefix), query_rule=rule)

    return stored_as(decoder(config, attention=attention, mlp=dense_mlp(config, bias)), LAYOUT)
