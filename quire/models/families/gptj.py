"""GPT-J: parallel blocks with one layer norm, a part of each head rotated in neighbouring pairs.

Source: the GPTJForCausalLM config of transformers.
"""

from __future__ import annotations

from functools import partial

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import ONE_NORM, decoder, grouped_attention
from quire.models.families.gpt2 import TINY, in_our_words
from quire.models.families.parts import activation, head_dim, layer_norm, num_layers, plain_mlp
from quire.models.families.rope_config import read_rope
from quire.models.places import Layout
from quire.models.registry import family
from quire.models.spec import MLP, ModelSpec
from quire.models.stored_as import stored_as

__all__ = ["gptj"]

LAYOUT = Layout(
    "transformer.h.{}.",
    {
        "model.embed_tokens": "transformer.wte",
        "model.norm": "transformer.ln_f",
        "input_layernorm": "ln_1",
        **{f"self_attn.{each}_proj": f"attn.{each}_proj" for each in "qkv"},
        "self_attn.o_proj": "attn.out_proj",
        "mlp.up_proj": "mlp.fc_in",
        "mlp.down_proj": "mlp.fc_out",
    },
)


@family("GPTJForCausalLM", tiny={**TINY, "rotary_dim": 8})
def gptj(config: ConfigReader) -> ModelSpec:
    """GPT-J 6B."""
    for key in ("rotary", "scale_attn_weights"):
        if not config.flag(key, True):
            raise ModelError(f"{config.architecture}: {key} false is not supported; expected true")
    rotated = config.positive("rotary_dim", 64)
    config = in_our_words(config)
    width, inner = config.positive("hidden_size"), config.positive("intermediate_size")
    kind = activation(config, "activation_function", "gelu_new")
    share = min(rotated / head_dim(config), 1.0)
    rope = read_rope(config, head_dim(config), pairing="interleaved", partial=share)

    def mlp(layer: int, prefix: str) -> MLP:
        return plain_mlp(prefix, width, inner, True, kind)

    spec = decoder(
        config,
        attention=grouped_attention(config, ropes=[rope] * num_layers(config)),
        mlp=mlp,
        norm=partial(layer_norm, eps=config.number("layer_norm_epsilon", 1e-5, low=0.0, high=1.0)),
        block_norms=ONE_NORM,
        parallel=True,
        head_bias=True,
    )
    return stored_as(spec, LAYOUT)
