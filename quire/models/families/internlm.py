"""InternLM, three generations of the Llama block: with biases, with fused q, k and v, and plain.

Source: the configs and tensor names of the internlm checkpoints; their remote code is not run.
"""

from __future__ import annotations

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import (
    TINY,
    decoder,
    dense_decoder,
    dense_mlp,
    grouped_attention,
)
from quire.models.places import Layout
from quire.models.registry import family
from quire.models.spec import ModelSpec
from quire.models.stored_as import stored_as

__all__ = ["internlm", "internlm2", "internlm3"]

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


@family("InternLMForCausalLM", tiny={**TINY, "num_key_value_heads": 4, "bias": True})
def internlm(config: ConfigReader) -> ModelSpec:
    """InternLM 7B and 20B."""
    bias = config.flag("bias", True)
    rotary = ConfigReader(config.section("rotary"), config.architecture)
    scaling = config.section("rope_scaling")
    if rotary.get("type", "origin") == "dynamic":
        scaling = {"type": "dynamic", "factor": rotary.number("scaling_factor", 1.0)}
    config = config.renamed(
        {}, rope_theta=rotary.number("base", 10000.0), rope_scaling=dict(scaling)
    )
    return dense_decoder(config, qkv_bias=bias, output_bias=bias)


@family("InternLM2ForCausalLM", tiny={**TINY, "bias": False})
def internlm2(config: ConfigReader) -> ModelSpec:
    """InternLM2 and InternLM2.5: rows of q, k and v stand together by their kv heads."""
    bias = config.flag("bias", True)
    spec = dense_decoder(config, qkv_bias=bias, output_bias=bias)
    layout = Layout(
        names={
            "model.embed_tokens": "model.tok_embeddings",
            "input_layernorm": "attention_norm",
            "self_attn.o_proj": "attention.wo",
            "post_attention_layernorm": "ffn_norm",
            "mlp.gate_proj": "feed_forward.w1",
            "mlp.up_proj": "feed_forward.w3",
            "mlp.down_proj": "feed_forward.w2",
            "lm_head": "output",
        },
        fused={"attention.wqkv": QKV},
        groups={"attention.wqkv": spec.attentions[0].kv_heads},
    )
    return stored_as(spec, layout)


@family("InternLM3ForCausalLM", tiny={**TINY, "head_dim": 16, "bias": False, "qkv_bias": True})
def internlm3(config: ConfigReader) -> ModelSpec:
    """InternLM3."""
    bias, qkv_bias = config.flag("bias"), config.flag("qkv_bias")
    attention = grouped_attention(config, qkv_bias=qkv_bias, output_bias=bias)
    return decoder(config, attention=attention, mlp=dense_mlp(config, bias))
