"""Falcon: parallel blocks with one or two layer norms, and few key and value heads.

The oldest have ALiBi, biases, and parts that follow each other.  Source: arXiv:2311.16867, the
FalconForCausalLM config of transformers.
"""

from __future__ import annotations

from functools import partial

from quire.models.attention_rules import alibi_slopes
from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import (
    BARE_TINY,
    ONE_NORM,
    PRE_NORMS,
    BlockNorms,
    GroupedMaker,
    decoder,
    grouped_attention,
)
from quire.models.families.parts import (
    activation,
    head_dim,
    layer_norm,
    num_layers,
    plain_mlp,
)
from quire.models.families.rope_config import read_rope
from quire.models.places import Layout
from quire.models.registry import family
from quire.models.spec import MLP, ModelSpec
from quire.models.stored_as import stored_as

__all__ = ["falcon"]

NAMES = {
    "model.embed_tokens": "transformer.word_embeddings",
    "model.norm": "transformer.ln_f",
    "self_attn.o_proj": "self_attention.dense",
    "mlp.up_proj": "mlp.dense_h_to_4h",
    "mlp.down_proj": "mlp.dense_4h_to_h",
}
TWO_NORMS = BlockNorms("ln_attn", "input_layernorm")
OF_MLP = {"input_layernorm": "ln_mlp"}
"""What TWO_NORMS calls as where there is one."""
QKV = "self_attention.query_key_value"


@family(
    "FalconForCausalLM", tiny={**BARE_TINY, "num_kv_heads": 2, "new_decoder_architecture": True}
)
def falcon(config: ConfigReader) -> ModelSpec:
    """Falcon 7B, 40B and 180B, Falcon2-11B and Falcon-RW."""
    width, heads = config.positive("hidden_size"), config.positive("num_attention_heads")
    new, one = config.flag("new_decoder_architecture"), config.flag("multi_query", True)
    given_heads = config.positive("num_kv_heads", heads)
    kv_heads = given_heads if new else 1 if one else heads
    inner = config.positive("ffn_hidden_size", 4 * width)
    config = config.renamed({}, num_key_value_heads=kv_heads)
    bias, kind = config.flag("bias"), activation(config, "activation", "gelu")
    parallel = config.flag("parallel_attn", True) or new
    two_norms = config.positive("num_ln_in_parallel_attn", 2 if new else 1) == 2

    def mlp(layer: int, prefix: str) -> MLP:
        return plain_mlp(prefix, width, inner, bias, kind)

    norm = partial(layer_norm, eps=config.number("layer_norm_epsilon", 1e-5, low=0.0, high=1.0))
    spec = decoder(
        config,
        attention=_attention(config, bias),
        mlp=mlp,
        norm=norm,
        block_norms=TWO_NORMS if two_norms else ONE_NORM if parallel else PRE_NORMS,
        parallel=parallel,
        tied=True,
    )
    fused = {QKV: tuple(f"self_attn.{each}_proj" for each in "qkv")}
    names = {**NAMES, **OF_MLP} if two_norms else NAMES
    return stored_as(spec, Layout("transformer.h.{}.", names, fused, {QKV: kv_heads}))


def _attention(config: ConfigReader, bias: bool) -> GroupedMaker:
    """With ALiBi its slopes are scaled as the scores are."""
    alibi, dim = config.flag("alibi"), head_dim(config)
    slopes = alibi_slopes(config.positive("num_attention_heads")) if alibi else ()
    rope = read_rope(config, dim)  # transformers writes one with ALiBi, too
    config.get("rotary")  # what alibi says the other way round
    return grouped_attention(
        config,
        qkv_bias=bias,
        output_bias=bias,
        ropes=[None if alibi else rope] * num_layers(config),
        slopes=tuple(each * dim**-0.5 for each in slopes),
    )
