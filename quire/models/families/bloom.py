"""BLOOM: ALiBi in place of rotations, a layer norm behind the embedding, biases, a tied head.

Source: arXiv:2211.05100, the BloomForCausalLM config of transformers.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from quire.errors import ModelError
from quire.models.attention_rules import alibi_slopes
from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import BARE_TINY, decoder, grouped_attention
from quire.models.families.parts import layer_norm, num_layers, plain_mlp
from quire.models.places import Layout
from quire.models.registry import family
from quire.models.spec import MLP, ModelSpec
from quire.models.stored_as import stored_as

__all__ = ["bloom"]

OLD_KEYS = {
    "hidden_size": "n_embed",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "seq_length",
}
UNHEEDED = (
    *("slow_but_exact", "offset_alibi", "attention_softmax_in_fp32", "masked_softmax_fusion"),
    *("bias_dropout_fusion", "skip_bias_add", "skip_bias_add_qkv", "n_inner"),
)
"""How it was trained, and other orders of the same sums; an MLP is four times as wide."""
NAMES = {
    "model.embed_tokens": "transformer.word_embeddings",
    "model.embed_norm": "transformer.word_embeddings_layernorm",
    "model.norm": "transformer.ln_f",
    "self_attn.o_proj": "self_attention.dense",
    "mlp.up_proj": "mlp.dense_h_to_4h",
    "mlp.down_proj": "mlp.dense_4h_to_h",
}
QKV = "self_attention.query_key_value"


@family("BloomForCausalLM", tiny=BARE_TINY)
def bloom(config: ConfigReader) -> ModelSpec:
    """BLOOM and BLOOMZ."""
    if config.flag("apply_residual_connection_post_layernorm"):
        raise ModelError(
            f"{config.architecture}: apply_residual_connection_post_layernorm is not supported; "
            "expected false"
        )
    for key in UNHEEDED:
        config.get(key)
    config = config.renamed({key: old for key, old in OLD_KEYS.items() if old in config})
    width, heads = config.positive("hidden_size"), config.positive("num_attention_heads")
    norm = partial(layer_norm, eps=config.number("layer_norm_epsilon", 1e-5, low=0.0, high=1.0))

    def mlp(layer: int, prefix: str) -> MLP:
        return plain_mlp(prefix, width, 4 * width, True, "gelu_tanh")

    attention = grouped_attention(
        config,
        qkv_bias=True,
        output_bias=True,
        ropes=[None] * num_layers(config),
        slopes=alibi_slopes(heads),
    )
    spec = decoder(config, attention=attention, mlp=mlp, norm=norm, tied=True)
    embedding = replace(spec.embedding, norm=norm("model.embed_norm", width))
    fused = {QKV: tuple(f"self_attn.{each}_proj" for each in "qkv")}
    layout = Layout("transformer.h.{}.", NAMES, fused, {QKV: heads})
    return stored_as(replace(spec, embedding=embedding), layout)
