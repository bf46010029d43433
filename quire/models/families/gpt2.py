"""GPT-2 and StarCoder: learned positions, layer norms, q, k and v in one matrix, a tied head.

GPT-2 stores the matrices of its blocks turned.  Source: the GPT2LMHeadModel and
GPTBigCodeForCausalLM configs of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import decoder, grouped_attention
from quire.models.families.parts import activation, layer_norm, num_layers, plain_mlp
from quire.models.places import Layout
from quire.models.registry import family
from quire.models.spec import MLP, Attention, ModelSpec
from quire.models.stored_as import stored_as

__all__ = ["TINY", "gpt2", "gpt_bigcode", "in_our_words"]

TINY: Mapping[str, Any] = {
    "vocab_size": 128,
    "n_embd": 64,
    "n_inner": 96,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
KEYS = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}
NAMES = {
    "model.embed_tokens": "transformer.wte",
    "model.embed_positions": "transformer.wpe",
    "model.norm": "transformer.ln_f",
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "self_attn.o_proj": "attn.c_proj",
    "mlp.up_proj": "mlp.c_fc",
    "mlp.down_proj": "mlp.c_proj",
}
FUSED = {"attn.c_attn": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")}
LAYER = "transformer.h.{}."


@family("GPT2LMHeadModel", tiny=TINY)
def gpt2(config: ConfigReader) -> ModelSpec:
    """GPT-2, DistilGPT-2 and DialoGPT."""
    config.flag("reorder_and_upcast_attn")  # another order of the same sums
    return stored_as(_gpt2(config, "gelu_new"), Layout(LAYER, NAMES, FUSED, transposed=True))


@family("GPTBigCodeForCausalLM", tiny={**TINY, "multi_query": False})
def gpt_bigcode(config: ConfigReader) -> ModelSpec:
    """StarCoder, StarCoderBase and SantaCoder: one key and value head for all queries."""
    for key in ("attention_softmax_in_fp32", "scale_attention_softmax_in_fp32"):
        config.flag(key, True)  # how it was trained; scores are float32 here
    heads, one = config.positive("n_head"), config.flag("multi_query", True)
    spec = _gpt2(config.renamed({}, num_key_value_heads=1 if one else heads), "gelu_pytorch_tanh")
    groups = {} if one else dict.fromkeys(FUSED, heads)
    return stored_as(spec, Layout(LAYER, NAMES, FUSED, groups))


def in_our_words(config: ConfigReader) -> ConfigReader:
    """The config of GPT-2 and its kin for who asks for Llama's keys."""
    width = config.positive("n_embd")
    config.get("n_ctx")  # n_positions once more
    return config.renamed(KEYS, intermediate_size=config.positive("n_inner", 4 * width))


def _gpt2(config: ConfigReader, kind: str) -> ModelSpec:
    """kind: the default of its activation."""
    if config.flag("add_cross_attention"):
        raise ModelError(f"{config.architecture}: add_cross_attention is not supported")
    config = in_our_words(config)
    width, inner = config.positive("hidden_size"), config.positive("intermediate_size")
    act = activation(config, "activation_function", kind)
    by_layer = config.flag("scale_attn_by_inverse_layer_idx")
    plain = grouped_attention(
        config,
        qkv_bias=True,
        output_bias=True,
        scale=None if config.flag("scale_attn_weights", True) else 1.0,
        ropes=[None] * num_layers(config),
    )

    def attention(layer: int, prefix: str) -> Attention:
        made = plain(layer, prefix)
        return replace(made, scale=made.scale / (layer + 1)) if by_layer else made

    def mlp(layer: int, prefix: str) -> MLP:
        return plain_mlp(prefix, width, inner, True, act)

    norm = partial(layer_norm, eps=config.number("layer_norm_epsilon", 1e-5, low=0.0, high=1.0))
    return decoder(config, attention=attention, mlp=mlp, norm=norm, first_position=0, tied=True)
