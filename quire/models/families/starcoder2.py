"""StarCoder2: layer norms, biases everywhere, an MLP without a gate, a tied head.

Source: the Starcoder2ForCausalLM config of transformers.
"""

from __future__ import annotations

from functools import partial

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, decoder, grouped_attention
from quire.models.families.parts import activation, layer_norm, num_layers, plain_mlp
from quire.models.families.windows import sliding_window
from quire.models.places import Layout
from quire.models.registry import family
from quire.models.spec import MLP, ModelSpec
from quire.models.stored_as import stored_as

__all__ = ["starcoder2"]

LAYOUT = Layout(names={"mlp.up_proj": "mlp.c_fc", "mlp.down_proj": "mlp.c_proj"})


@family("Starcoder2ForCausalLM", tiny={**TINY, "sliding_window": 8})
def starcoder2(config: ConfigReader) -> ModelSpec:
    """StarCoder2 3B, 7B and 15B."""
    bias = config.flag("use_bias", True)
    config.expect("norm_type", "layer_norm")
    config.expect("mlp_type", "default")
    config.expect("scale_attn_weights", True)
    for key in ("activation_function", "layer_norm_epsilon", "scale_attention_softmax_in_fp32"):
        config.get(key)  # older names of what hidden_act and norm_epsilon say
    width, inner = config.positive("hidden_size"), config.positive("intermediate_size")
    kind = activation(config, default="gelu_pytorch_tanh")
    eps = config.number("norm_epsilon", 1e-5, low=0.0, high=1.0)

    def mlp(layer: int, prefix: str) -> MLP:
        return plain_mlp(prefix, width, inner, bias, kind)

    attention = grouped_attention(
        config,
        qkv_bias=bias,
        output_bias=bias,
        windows=[sliding_window(config)] * num_layers(config),
    )
    norm = partial(layer_norm, eps=eps)
    return stored_as(decoder(config, attention=attention, mlp=mlp, norm=norm, tied=True), LAYOUT)
