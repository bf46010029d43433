"""OPT: learned positions from row 2 on, layer norms, biases, ReLU, a tied head.

Source: arXiv:2205.01068, the OPTForCausalLM config of transformers.
"""

from __future__ import annotations

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import BARE_TINY, decoder, grouped_attention
from quire.models.families.parts import activation, layer_norm, num_layers, plain_mlp
from quire.models.places import Layout
from quire.models.registry import family
from quire.models.spec import MLP, ModelSpec, Norm
from quire.models.stored_as import stored_as

__all__ = ["opt"]

LAYOUT = Layout(
    "model.decoder.layers.{}.",
    {
        "model.embed_tokens": "model.decoder.embed_tokens",
        "model.embed_positions": "model.decoder.embed_positions",
        "model.norm": "model.decoder.final_layer_norm",
        "input_layernorm": "self_attn_layer_norm",
        "post_attention_layernorm": "final_layer_norm",
        "self_attn.o_proj": "self_attn.out_proj",
        "mlp.up_proj": "fc1",
        "mlp.down_proj": "fc2",
    },
)


@family("OPTForCausalLM", tiny={**BARE_TINY, "ffn_dim": 96})
def opt(config: ConfigReader) -> ModelSpec:
    """OPT of all sizes but 350M, whose norms stand behind its sums, and Galactica."""
    width = config.positive("hidden_size")
    only = {"do_layer_norm_before": True, "_remove_final_layer_norm": False}
    for key, value in {**only, "word_embed_proj_dim": width}.items():
        if config.get(key, value) != value:
            raise ModelError(
                f"{config.architecture}: {key} {config.get(key)!r} is not supported; expected "
                f"{value!r}"
            )
    inner, bias = config.positive("ffn_dim", 4 * width), config.flag("enable_bias", True)
    kind = activation(config, "activation_function", "relu")
    affine = config.flag("layer_norm_elementwise_affine", True)

    def norm(name: str, width: int) -> Norm:
        return layer_norm(name, width, 1e-5) if affine else Norm(None, 1e-5, "layer")

    def mlp(layer: int, prefix: str) -> MLP:
        return plain_mlp(prefix, width, inner, bias, kind)

    attention = grouped_attention(
        config, qkv_bias=bias, output_bias=bias, ropes=[None] * num_layers(config)
    )
    spec = decoder(config, attention=attention, mlp=mlp, norm=norm, first_position=2, tied=True)
    return stored_as(spec, LAYOUT)
