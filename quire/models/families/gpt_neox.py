"""GPT-NeoX: parallel blocks with two layer norms, q, k and v in one matrix, biases.

Where use_parallel_residual is false the parts of a block follow each other.  Source:
arXiv:2204.06745, the GPTNeoXForCausalLM config of transformers.
"""

from __future__ import annotations

from functools import partial

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import BARE_TINY, decoder, grouped_attention
from quire.models.families.parts import activation, head_dim, layer_norm, num_layers, plain_mlp
from quire.models.families.rope_config import read_rope
from quire.models.places import Layout
from quire.models.registry import family
from quire.models.spec import MLP, ModelSpec
from quire.models.stored_as import stored_as

__all__ = ["gpt_neox"]

FUSED = "attention.query_key_value"
NAMES = {
    "model.embed_tokens": "gpt_neox.embed_in",
    "model.norm": "gpt_neox.final_layer_norm",
    "lm_head": "embed_out",
    "self_attn.o_proj": "attention.dense",
    "mlp.up_proj": "mlp.dense_h_to_4h",
    "mlp.down_proj": "mlp.dense_4h_to_h",
}


@family("GPTNeoXForCausalLM", tiny={**BARE_TINY, "intermediate_size": 96, "rotary_pct": 0.5})
def gpt_neox(config: ConfigReader) -> ModelSpec:
    """GPT-NeoX 20B, Pythia, Dolly 2, RedPajama-INCITE and StableLM alpha."""
    width, inner = config.positive("hidden_size"), config.positive("intermediate_size")
    heads, bias = config.positive("num_attention_heads"), config.flag("attention_bias", True)
    kind = activation(config, default="gelu")
    norm = partial(layer_norm, eps=config.number("layer_norm_eps", 1e-5, low=0.0, high=1.0))
    rope = read_rope(
        config,
        head_dim(config),
        theta=config.number("rotary_emb_base", 10000.0),
        partial=config.number("rotary_pct", 0.25, low=0.0, high=1.0),
    )

    def mlp(layer: int, prefix: str) -> MLP:
        return plain_mlp(prefix, width, inner, True, kind)

    attention = grouped_attention(
        config, qkv_bias=bias, output_bias=bias, ropes=[rope] * num_layers(config)
    )
    spec = decoder(
        config,
        attention=attention,
        mlp=mlp,
        norm=norm,
        parallel=config.flag("use_parallel_residual", True),
    )
    qkv = tuple(f"self_attn.{each}_proj" for each in "qkv")
    layout = Layout("gpt_neox.layers.{}.", NAMES, {FUSED: qkv}, groups={FUSED: heads})
    return stored_as(spec, layout)
