"""Baichuan: the Llama block with q, k and v in one matrix; 13B has ALiBi in place of rotations.

Source: the configs and tensor names of the baichuan-inc checkpoints; their remote code is not run.
"""

from __future__ import annotations

from quire.models.attention_rules import alibi_slopes
from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, decoder, dense_mlp, grouped_attention
from quire.models.families.parts import num_layers
from quire.models.families.rope_config import read_rope
from quire.models.places import Layout
from quire.models.registry import family
from quire.models.spec import ModelSpec
from quire.models.stored_as import stored_as

__all__ = ["baichuan"]

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")

WIDTH_OF_7B = 4096
"""Models of this width rotate; nothing in config.json says so."""
VOCABULARY_OF_2 = 125696
"""Models with this vocabulary, the second generation, divide each row of the head by its length."""


@family("BaiChuanForCausalLM", "BaichuanForCausalLM", tiny={**TINY, "num_key_value_heads": 4})
def baichuan(config: ConfigReader) -> ModelSpec:
    """Baichuan and Baichuan2, 7B and 13B."""
    width, heads = config.positive("hidden_size"), config.positive("num_attention_heads")
    rotates = config.architecture == "BaiChuanForCausalLM" or width == WIDTH_OF_7B
    length = config.positive("model_max_length", config.positive("max_position_embeddings", 4096))
    config = config.renamed({}, max_position_embeddings=length, num_key_value_heads=heads)
    rope = read_rope(config, width // heads) if rotates else None
    attention = grouped_attention(
        config,
        ropes=(rope,) * num_layers(config),
        slopes=() if rotates else alibi_slopes(heads),
    )
    spec = decoder(config, attention=attention, mlp=dense_mlp(config))
    normed = ("lm_head",) if spec.vocab_size == VOCABULARY_OF_2 else ()
    return stored_as(spec, Layout(fused={"self_attn.W_pack": QKV}, unit_rows=normed))
