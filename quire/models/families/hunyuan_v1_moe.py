"""Hunyuan with experts: heads are normalised behind the rotation, one expert is met by all.

Source: the HunYuanMoEV1ForCausalLM config of transformers.
"""

from __future__ import annotations

from typing import Any

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, MlpMaker, decoder, grouped_attention
from quire.models.families.experts import expert_mlps, router
from quire.models.families.parts import activation, gated_mlp, num_layers
from quire.models.families.rope_config import read_rope
from quire.models.registry import family
from quire.models.rope import Rope
from quire.models.spec import MixtureOfExperts, ModelSpec

__all__ = ["hunyuan_v1_moe"]

MAX_EXPERTS = 1024  # of a layer


@family(
    "HunYuanMoEV1ForCausalLM",
    tiny={**TINY, "num_experts": 4, "moe_topk": [2, 1], "head_dim": 16, "use_qk_norm": True},
)
def hunyuan_v1_moe(config: ConfigReader) -> ModelSpec:
    """Hunyuan-A13B."""
    bias, layers = config.flag("attention_bias"), num_layers(config)
    attention = grouped_attention(
        config,
        qkv_bias=bias,
        output_bias=bias,
        qk_norm="heads" if config.flag("use_qk_norm", True) else None,
        qk_norm_names=("query_layernorm", "key_layernorm"),
        norm_rotated=True,
        ropes=(_rope(config),) * layers,
    )
    return decoder(config, attention=attention, mlp=_experts(config))


def _rope(config: ConfigReader) -> Rope:
    """An `alpha` stretches the base once and for all, whatever the type is called."""
    heads = config.positive("num_attention_heads")
    dim = config.positive("head_dim", max(config.positive("hidden_size") // heads, 1))
    values: dict[str, Any] = {**config.section("rope_scaling"), **config.section("rope_parameters")}
    fields = ConfigReader(values, config.architecture)
    alpha = fields.number("alpha", 0.0, low=0.0, high=1e6)
    if not alpha:
        return read_rope(config, dim)
    theta = fields.number("rope_theta", config.number("rope_theta", 10000.0), low=2.0, high=1e12)
    return Rope(dim, theta * alpha ** (dim / (dim - 2)))


def _experts(config: ConfigReader) -> MlpMaker:
    """Experts weighed by a softmax over those chosen, beside one that all tokens meet."""
    counts, top_ks = _per_layer(config, "num_experts"), _per_layer(config, "moe_topk")
    width, kind = config.positive("hidden_size"), activation(config)
    dense = config.positive("intermediate_size")
    inners = _per_layer(config, "moe_intermediate_size", dense)
    shared = _per_layer(config, "num_shared_expert", 1)

    def mixture(layer: int, prefix: str) -> MixtureOfExperts:
        count, inner = counts[layer], inners[layer]
        return MixtureOfExperts(
            router(config, prefix + "gate.wg", count, top_ks[layer], normalised=True),
            expert_mlps(config, prefix + "experts.", count, inner, kind=kind),
            gated_mlp(prefix + "shared_mlp.", width, shared[layer] * dense, kind=kind),
        )

    return mixture


def _per_layer(config: ConfigReader, key: str, default: int | None = None) -> tuple[int, ...]:
    """One number for all layers, or a list with one for each."""
    layers, value = num_layers(config), config.get(key, default)
    values = value if isinstance(value, list) else [value] * layers
    if len(values) < layers or not all(_is_count(each, key) for each in values):
        raise ModelError(
            f"{config.architecture}: {key} is {value!r}; expected a number above 0, or one for "
            f"each of {layers} layers"
        )
    return tuple(values[:layers])


def _is_count(value: object, key: str) -> bool:
    most = MAX_EXPERTS if key == "num_experts" else 2**31 - 1
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most
