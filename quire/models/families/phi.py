"""Phi 1 to 2: parallel blocks with one layer norm, biases everywhere, a part of each head rotated.

Source: the PhiForCausalLM config of transformers.
"""

from __future__ import annotations

from functools import partial

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import ONE_NORM, TINY, decoder, grouped_attention
from quire.models.families.parts import activation, head_dim, layer_norm, num_layers, plain_mlp
from quire.models.families.rope_config import read_rope
from quire.models.places import Layout
from quire.models.registry import family
from quire.models.spec import MLP, ModelSpec
from quire.models.stored_as import stored_as

__all__ = ["phi"]

LAYOUT = Layout(
    names={
        "self_attn.o_proj": "self_attn.dense",
        "mlp.up_proj": "mlp.fc1",
        "mlp.down_proj": "mlp.fc2",
        "model.norm": "model.final_layernorm",
    }
)


@family("PhiForCausalLM", tiny=TINY)
def phi(config: ConfigReader) -> ModelSpec:
    """Phi-1, Phi-1.5 and Phi-2."""
    width, inner = config.positive("hidden_size"), config.positive("intermediate_size")
    kind = activation(config, default="gelu_new")
    norm = partial(layer_norm, eps=config.number("layer_norm_eps", 1e-5, low=0.0, high=1.0))
    rope = read_rope(config, head_dim(config), partial=0.5)

    def mlp(layer: int, prefix: str) -> MLP:
        return plain_mlp(prefix, width, inner, True, kind)

    attention = grouped_attention(
        config,
        qkv_bias=True,
        output_bias=True,
        qk_norm="heads" if config.flag("qk_layernorm") else None,
        qk_norm_names=("q_layernorm", "k_layernorm"),
        norm=norm,
        ropes=[rope] * num_layers(config),
    )
    spec = decoder(
        config,
        attention=attention,
        mlp=mlp,
        norm=norm,
        block_norms=ONE_NORM,
        parallel=True,
        head_bias=True,
    )
    return stored_as(spec, LAYOUT)
