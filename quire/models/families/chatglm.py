"""ChatGLM2 and later: the Llama block with half of each head rotated, in neighbouring pairs.

Source: the configs and tensor names of the THUDM checkpoints; their remote code is not run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import decoder, dense_mlp, grouped_attention
from quire.models.families.parts import num_layers
from quire.models.families.rope_config import read_rope
from quire.models.places import Layout
from quire.models.registry import family
from quire.models.spec import ModelSpec
from quire.models.stored_as import stored_as

__all__ = ["chatglm"]

NAMES: Mapping[str, str] = {
    "vocab_size": "padded_vocab_size",
    "num_hidden_layers": "num_layers",
    "intermediate_size": "ffn_hidden_size",
    "head_dim": "kv_channels",
    "rms_norm_eps": "layernorm_epsilon",
    "max_position_embeddings": "seq_length",
}
"""What other families call it → what config.json does."""

LAYOUT = Layout(
    layer="transformer.encoder.layers.{}.",
    names={
        "model.embed_tokens": "transformer.embedding.word_embeddings",
        "self_attn.o_proj": "self_attention.dense",
        "mlp.down_proj": "mlp.dense_4h_to_h",
        "model.norm": "transformer.encoder.final_layernorm",
        "lm_head": "transformer.output_layer",
    },
    fused={
        "self_attention.query_key_value": (
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
        ),
        "mlp.dense_h_to_4h": ("mlp.gate_proj", "mlp.up_proj"),
    },
)

ONLY: Mapping[str, Any] = {
    "add_bias_linear": False,
    "rmsnorm": True,
    "post_layer_norm": True,
    "original_rope": True,
    "apply_residual_connection_post_layernorm": False,
    "position_encoding_2d": False,
    "quantization_bit": 0,
}
"""Settings that every model since the second generation has alike."""

TINY: Mapping[str, Any] = {
    "padded_vocab_size": 128,
    "hidden_size": 64,
    "ffn_hidden_size": 96,
    "num_layers": 2,
    "num_attention_heads": 4,
    "kv_channels": 16,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "seq_length": 256,
    "add_qkv_bias": True,
    "eos_token_id": 2,
}


@family("ChatGLMModel", "ChatGLMForConditionalGeneration", tiny=TINY)
def chatglm(config: ConfigReader) -> ModelSpec:
    """ChatGLM2, ChatGLM3, GLM-4-9B and CodeGeeX4 in their original layout."""
    for key, value in ONLY.items():
        found = config.get(key, value)
        if found != value:
            raise ModelError(
                f"{config.architecture}: {key} is {found!r}; only {value!r} is supported "
                "(ChatGLM-6B, the first generation, is another architecture)"
            )
    qkv_bias = config.flag("add_qkv_bias")
    heads = kv_heads = config.positive("num_attention_heads")
    groups = config.positive("multi_query_group_num", 1)
    if config.flag("multi_query_attention"):
        kv_heads = groups
    for key in ("apply_query_key_layer_scaling", "interleaved_qkv", "vocab_size"):
        config.get(key)  # divides and multiplies by the same; nobody reads the others
    config.expect("pre_seq_len", None)
    config.get("prefix_projection")  # of a prefix, which there is none of
    config.expect("num_hidden_layers", config.get("num_layers"))
    theta = 10000.0 * config.number("rope_ratio", 1.0, low=1e-3, high=1e6)
    config = config.renamed(NAMES, num_key_value_heads=kv_heads)
    dim = config.positive("head_dim", max(config.positive("hidden_size") // heads, 1))
    rope = read_rope(config, dim, pairing="interleaved", theta=theta, partial=0.5)
    attention = grouped_attention(config, qkv_bias=qkv_bias, ropes=(rope,) * num_layers(config))
    return stored_as(decoder(config, attention=attention, mlp=dense_mlp(config)), LAYOUT)
