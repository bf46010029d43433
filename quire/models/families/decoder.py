"""The decoder with Llama's weight names, which most families are a variation of.

A family says what stands in its blocks by functions: of (layer, prefix of its weights), one for the
attention of a layer and one for its feed-forward part; of (name, width), one for its norms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

from quire.errors import ModelError
from quire.models.attention_rules import QueryRule
from quire.models.config_reader import ConfigReader
from quire.models.families import parts
from quire.models.families.rope_config import max_length, read_rope
from quire.models.rope import Rope
from quire.models.spec import (
    Activation,
    Attention,
    AttentionPart,
    Block,
    Embedding,
    FeedForward,
    ModelSpec,
    Norm,
    TokenMixer,
    Weight,
)

__all__ = [
    "BARE_TINY",
    "ONE_NORM",
    "PRE_NORMS",
    "TINY",
    "AttentionMaker",
    "BlockNorms",
    "GroupedMaker",
    "MixerMaker",
    "MlpMaker",
    "NormMaker",
    "decoder",
    "dense_decoder",
    "dense_mlp",
    "grouped_attention",
    "rms_norm",
]

AttentionMaker: TypeAlias = Callable[[int, str], AttentionPart]
GroupedMaker: TypeAlias = Callable[[int, str], Attention]
MixerMaker: TypeAlias = Callable[[int, str], TokenMixer]
MlpMaker: TypeAlias = Callable[[int, str], FeedForward]
NormMaker: TypeAlias = Callable[[str, int], Norm]

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
BARE_TINY: Mapping[str, Any] = {
    key: TINY[key] for key in TINY if key not in ("intermediate_size", "num_key_value_heads")
}
"""For families that have other words for these, or none."""


@dataclass(frozen=True, slots=True)
class BlockNorms:
    """What the norms of a block are called, by their places (see spec.Block); None: not there.

    Of one name, attention and mlp share a norm, which is for parallel blocks.
    """

    attention: str | None = None
    mlp: str | None = None
    attention_output: str | None = None
    mlp_output: str | None = None


PRE_NORMS = BlockNorms("input_layernorm", "post_attention_layernorm")
ONE_NORM = BlockNorms("input_layernorm", "input_layernorm")
"""Of a parallel block whose parts share one."""


def dense_decoder(
    config: ConfigReader,
    *,
    qkv_bias: bool = False,
    output_bias: bool = False,
    mlp_bias: bool = False,
    qk_norm: bool = False,
    windows: Sequence[int | None] | None = None,
) -> ModelSpec:
    """The spec of a decoder with grouped-query attention and one gated MLP in each block.

    windows: one sliding window, or None, per layer; None: no layer has one.
    """
    attention = grouped_attention(
        config,
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        qk_norm="heads" if qk_norm else None,
        windows=windows,
    )
    return decoder(config, attention=attention, mlp=dense_mlp(config, mlp_bias))


def decoder(
    config: ConfigReader,
    *,
    attention: Callable[[int, str], TokenMixer | None],
    mlp: Callable[[int, str], FeedForward | None],
    norm: NormMaker | None = None,
    block_norms: BlockNorms = PRE_NORMS,
    parallel: bool = False,
    length: int | None = None,
    embedding_scale: float = 1.0,
    first_position: int | None = None,
    residual_scale: float = 1.0,
    logit_scale: float = 1.0,
    logit_cap: float | None = None,
    head_bias: bool = False,
    tied: bool = False,
    unused: tuple[str, ...] = (),
) -> ModelSpec:
    """The spec of a decoder whose config.json has Llama's keys.

    attention, mlp: they give None where a layer has no such part.  norm: None: RMS norms.
    first_position: the row of a table of learned positions that the first token has; None: there
    is no such table.  parallel: see spec.Block.  length: None: what the rope of the first layer
    that has one says.  tied: the default of tie_word_embeddings.  unused: see ModelSpec.
    """
    width, vocab_size = config.positive("hidden_size"), config.positive("vocab_size")
    make_norm = rms_norm(config) if norm is None else norm
    config.expect("is_causal", True)

    def norm_of(part: object, prefix: str, name: str | None) -> Norm | None:
        return None if part is None or name is None else make_norm(prefix + name, width)

    def block(prefix: str, layer: int) -> Block:
        mixer, feed = attention(layer, prefix + "self_attn."), mlp(layer, prefix + "mlp.")
        return Block(
            attention_norm=norm_of(mixer, prefix, block_norms.attention),
            attention=mixer,
            mlp_norm=norm_of(feed, prefix, block_norms.mlp),
            mlp=feed,
            attention_output_norm=norm_of(mixer, prefix, block_norms.attention_output),
            mlp_output_norm=norm_of(feed, prefix, block_norms.mlp_output),
            residual_scale=residual_scale,
            parallel=parallel,
        )

    blocks = tuple(block(f"model.layers.{i}.", i) for i in range(parts.num_layers(config)))
    table = Weight("model.embed_tokens.weight", (vocab_size, width), "rows")
    head = parts.linear("lm_head", vocab_size, width, "rows", head_bias)
    if config.flag("tie_word_embeddings", tied):
        head = replace(head, weight=table)
    mixers = [block.attention for block in blocks]
    rope = next((each.rope for each in mixers if isinstance(each, Attention) and each.rope), None)
    length = max_length(config, rope) if length is None else length
    embedding = Embedding(table, scale=embedding_scale)
    if first_position is not None:
        positions = Weight("model.embed_positions.weight", (length + first_position, width))
        embedding = replace(embedding, positions=positions, first_position=first_position)
    return ModelSpec(
        architecture=config.architecture,
        vocab_size=vocab_size,
        width=width,
        max_length=length,
        dtype=parts.dtype(config),
        embedding=embedding,
        blocks=blocks,
        norm=make_norm("model.norm", width),
        head=head,
        bos_token_ids=config.token_ids("bos_token_id"),
        eos_token_ids=config.token_ids("eos_token_id"),
        logit_scale=logit_scale,
        logit_cap=logit_cap,
        unused=unused,
    )


def grouped_attention(
    config: ConfigReader,
    *,
    qkv_bias: bool = False,
    output_bias: bool = False,
    qk_norm: Literal["heads", "rows"] | None = None,
    qk_norm_names: tuple[str, str] = ("q_norm", "k_norm"),
    norm: NormMaker | None = None,
    norm_rotated: bool = False,
    scale: float | None = None,
    softcap: float | None = None,
    query_rule: QueryRule | None = None,
    dim: int | None = None,
    ropes: Sequence[Rope | None] | None = None,
    windows: Sequence[int | None] | None = None,
    slopes: tuple[float, ...] = (),
) -> GroupedMaker:
    """Grouped-query attention as config.json describes it; ropes and windows are per layer.

    qk_norm: of each head, or of all of them as one row.  norm: None: RMS norms.  scale: None:
    dim ** -0.5.  dim: of a head; None: what config.json says, as for ropes, in every layer.
    """
    width = config.positive("hidden_size")
    heads = config.positive("num_attention_heads")
    kv_heads = config.positive("num_key_value_heads", heads)
    dim = parts.head_dim(config) if dim is None else dim
    if heads % kv_heads:
        raise ModelError(
            f"{config.architecture}: num_attention_heads {heads} is not a multiple of "
            f"num_key_value_heads {kv_heads}"
        )
    make_norm = rms_norm(config) if norm is None else norm
    rope = read_rope(config, dim) if ropes is None else None

    def attention(layer: int, prefix: str) -> Attention:
        def norm_of(name: str, count: int) -> Norm | None:
            if qk_norm is None:
                return None
            return make_norm(prefix + name, dim if qk_norm == "heads" else count * dim)

        return Attention(
            query=parts.linear(prefix + "q_proj", heads * dim, width, "rows", qkv_bias, dim),
            key=parts.linear(prefix + "k_proj", kv_heads * dim, width, "rows", qkv_bias, dim),
            value=parts.linear(prefix + "v_proj", kv_heads * dim, width, "rows", qkv_bias, dim),
            output=parts.linear(prefix + "o_proj", width, heads * dim, "columns", output_bias, dim),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=dim,
            scale=dim**-0.5 if scale is None else scale,
            rope=rope if ropes is None else ropes[layer],
            window=windows[layer] if windows else None,
            query_norm=norm_of(qk_norm_names[0], heads),
            key_norm=norm_of(qk_norm_names[1], kv_heads),
            norm_rotated=norm_rotated,
            softcap=softcap,
            slopes=slopes,
            query_rule=query_rule,
        )

    return attention


def dense_mlp(config: ConfigReader, bias: bool = False, kind: Activation | None = None) -> MlpMaker:
    """One gated MLP of intermediate_size in each block; kind None: what hidden_act says."""
    width, inner = config.positive("hidden_size"), config.positive("intermediate_size")
    kind = parts.activation(config) if kind is None else kind
    return lambda layer, prefix: parts.gated_mlp(prefix, width, inner, bias, kind)


def rms_norm(config: ConfigReader, *, offset: float = 0.0, eps: float = 1e-6) -> NormMaker:
    """RMS norms with rms_norm_eps, or `eps`; offset 1: their weights are stored minus 1."""
    eps = config.number("rms_norm_eps", eps, low=0.0, high=1.0)
    return partial(parts.norm, eps=eps, offset=offset)
