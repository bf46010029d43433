"""The pre-norm decoder with Llama's weight names, which most families are a variation of.

A family says what stands in its blocks by two functions of (layer, prefix of its weights): one for
the attention of a layer, one for its feed-forward part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families.parts import activation, dtype, gated_mlp, linear, norm, num_layers
from quire.models.families.rope_config import max_length, read_rope
from quire.models.spec import Attention, Block, Embedding, FeedForward, Linear, ModelSpec, Weight

__all__ = [
    "TINY",
    "AttentionMaker",
    "MlpMaker",
    "decoder",
    "dense_decoder",
    "dense_mlp",
    "grouped_attention",
]

AttentionMaker: TypeAlias = Callable[[int, str], Attention]
MlpMaker: TypeAlias = Callable[[int, str], FeedForward]

TINY: Mapping[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def dense_decoder(
    config: ConfigReader,
    *,
    qkv_bias: bool = False,
    output_bias: bool = False,
    mlp_bias: bool = False,
    qk_norm: bool = False,
    windows: tuple[int | None, ...] | None = None,
) -> ModelSpec:
    """The spec of a decoder with grouped-query attention and one gated MLP in each block.

    windows: one sliding window, or None, per layer; None: no layer has one.
    """
    attention = grouped_attention(
        config, qkv_bias=qkv_bias, output_bias=output_bias, qk_norm=qk_norm, windows=windows
    )
    return decoder(config, attention=attention, mlp=dense_mlp(config, mlp_bias))


def decoder(config: ConfigReader, *, attention: AttentionMaker, mlp: MlpMaker) -> ModelSpec:
    """The spec of a decoder whose config.json has Llama's keys."""
    width, vocab_size = config.positive("hidden_size"), config.positive("vocab_size")
    eps = _eps(config)

    def block(prefix: str, layer: int) -> Block:
        return Block(
            attention_norm=norm(prefix + "input_layernorm", width, eps),
            attention=attention(layer, prefix + "self_attn."),
            mlp_norm=norm(prefix + "post_attention_layernorm", width, eps),
            mlp=mlp(layer, prefix + "mlp."),
        )

    blocks = tuple(block(f"model.layers.{i}.", i) for i in range(num_layers(config)))
    embedding = Embedding(Weight("model.embed_tokens.weight", (vocab_size, width), "rows"))
    tied = config.flag("tie_word_embeddings")
    head = embedding.weight if tied else Weight("lm_head.weight", (vocab_size, width), "rows")
    return ModelSpec(
        architecture=config.architecture,
        vocab_size=vocab_size,
        width=width,
        max_length=max_length(config, blocks[0].attention.rope),
        dtype=dtype(config),
        embedding=embedding,
        blocks=blocks,
        norm=norm("model.norm", width, eps),
        head=Linear(head),
        bos_token_ids=config.token_ids("bos_token_id"),
        eos_token_ids=config.token_ids("eos_token_id"),
    )


def grouped_attention(
    config: ConfigReader,
    *,
    qkv_bias: bool = False,
    output_bias: bool = False,
    qk_norm: bool = False,
    windows: tuple[int | None, ...] | None = None,
) -> AttentionMaker:
    """Grouped-query attention as config.json describes it; only windows differ between layers."""
    width, eps = config.positive("hidden_size"), _eps(config)
    heads = config.positive("num_attention_heads")
    kv_heads = config.positive("num_key_value_heads", heads)
    dim = config.positive("head_dim", max(width // heads, 1))
    if heads % kv_heads:
        raise ModelError(
            f"{config.architecture}: num_attention_heads {heads} is not a multiple of "
            f"num_key_value_heads {kv_heads}"
        )
    rope = read_rope(config, dim)

    def attention(layer: int, prefix: str) -> Attention:
        return Attention(
            query=linear(prefix + "q_proj", heads * dim, width, "rows", qkv_bias, dim),
            key=linear(prefix + "k_proj", kv_heads * dim, width, "rows", qkv_bias, dim),
            value=linear(prefix + "v_proj", kv_heads * dim, width, "rows", qkv_bias, dim),
            output=linear(prefix + "o_proj", width, heads * dim, "columns", output_bias, dim),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=dim,
            scale=dim**-0.5,
            rope=rope,
            window=windows[layer] if windows else None,
            query_norm=norm(prefix + "q_norm", dim, eps) if qk_norm else None,
            key_norm=norm(prefix + "k_norm", dim, eps) if qk_norm else None,
        )

    return attention


def dense_mlp(config: ConfigReader, bias: bool = False) -> MlpMaker:
    """One gated MLP of intermediate_size in each block."""
    width, inner = config.positive("hidden_size"), config.positive("intermediate_size")
    kind = activation(config)
    return lambda layer, prefix: gated_mlp(prefix, width, inner, bias, kind)


def _eps(config: ConfigReader) -> float:
    return config.number("rms_norm_eps", 1e-6, low=0.0, high=1.0)
