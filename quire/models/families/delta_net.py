"""The gated delta net layers of Qwen3-Next and its successors, and which layers are such."""

from __future__ import annotations

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families import parts
from quire.models.families.decoder import MixerMaker
from quire.models.recurrent import Convolution, GatedDeltaNet
from quire.models.spec import Norm, Weight

__all__ = ["delta_net", "linear_layers"]

MOST_TAPS = 8
"""The native convolution holds as many inputs of a channel at once."""


def linear_layers(config: ConfigReader) -> tuple[bool, ...]:
    """Of each layer, whether it is a delta net, from `layer_types` or full_attention_interval."""
    layers, interval = parts.num_layers(config), config.positive("full_attention_interval", 4)
    kinds = config.get("layer_types")
    if kinds is None:
        return tuple((layer + 1) % interval != 0 for layer in range(layers))
    known = ("linear_attention", "full_attention")
    if not isinstance(kinds, list) or len(kinds) != layers or any(k not in known for k in kinds):
        raise ModelError(
            f"{config.architecture}: layer_types is {kinds!r}; expected {layers} of "
            f"{', '.join(known)}"
        )
    if "full_attention" not in kinds:
        raise ModelError(f"{config.architecture}: layer_types names no full_attention layer")
    return tuple(kind == "linear_attention" for kind in kinds)


def delta_net(config: ConfigReader) -> MixerMaker:
    """Gated delta nets as config.json describes them, all alike."""
    width = config.positive("hidden_size")
    key_heads = config.positive("linear_num_key_heads", 16)
    heads = config.positive("linear_num_value_heads", 32)
    key_dim = config.positive("linear_key_head_dim", 128)
    value_dim = config.positive("linear_value_head_dim", 128)
    taps = config.integer("linear_conv_kernel_dim", 4, low=2)
    eps = config.number("rms_norm_eps", 1e-6, low=0.0, high=1.0)
    if heads % key_heads:
        raise ModelError(
            f"{config.architecture}: linear_num_value_heads {heads} is not a multiple of "
            f"linear_num_key_heads {key_heads}"
        )
    if taps > MOST_TAPS:
        raise ModelError(
            f"{config.architecture}: linear_conv_kernel_dim is {taps}; at most {MOST_TAPS} are read"
        )
    if parts.activation(config) != "silu":
        raise ModelError(
            f"{config.architecture}: hidden_act is {config.get('hidden_act')!r}; its convolution "
            "is supported with silu only"
        )
    group = heads // key_heads
    keys, values = key_heads * key_dim, heads * value_dim

    def attention(layer: int, prefix: str) -> GatedDeltaNet:
        prefix = prefix.removesuffix("self_attn.") + "linear_attn."

        def of_keys(name: str) -> Weight:
            return Weight(f"{prefix}{name}.weight", (keys, 1, taps), "rows", key_dim)

        conv_value = Weight(f"{prefix}v_conv.weight", (values, 1, taps), "rows", group * value_dim)
        return GatedDeltaNet(
            query=parts.linear(prefix + "q_proj", keys, width, "rows", False, key_dim),
            key=parts.linear(prefix + "k_proj", keys, width, "rows", False, key_dim),
            value=parts.linear(prefix + "v_proj", values, width, "rows", False, group * value_dim),
            gate=parts.linear(prefix + "z_proj", values, width, "rows", False, group * value_dim),
            beta=parts.linear(prefix + "b_proj", heads, width, "rows", False, group),
            decay=parts.linear(prefix + "a_proj", heads, width, "rows", False, group),
            convolution=Convolution((of_keys("q_conv"), of_keys("k_conv"), conv_value), taps),
            decay_log=Weight(prefix + "A_log", (heads,), "rows", group),
            decay_bias=Weight(prefix + "dt_bias", (heads,), "rows", group),
            norm=Norm(Weight(prefix + "norm.weight", (value_dim,)), eps),
            output=parts.linear(
                prefix + "out_proj", width, values, "columns", False, group * value_dim
            ),
            key_heads=key_heads,
            heads=heads,
            key_dim=key_dim,
            value_dim=value_dim,
        )

    return attention
