"""Hunyuan with experts: heads are normalised behind the rotation, one expert is met by all.

Source: the HunYuanMoEV1ForCausalLM config of transformers.
"""

from __future__ import annotations

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, MlpMaker, decoder, rms_norm
from quire.models.families.experts import expert_mlps, router
from quire.models.families.hunyuan import hunyuan_attention
from quire.models.families.parts import activation, gated_mlp, num_layers
from quire.models.registry import family
from quire.models.spec import MixtureOfExperts, ModelSpec

__all__ = ["hunyuan_v1_moe"]

MAX_EXPERTS = 1024  # of a layer


@family(
    "HunYuanMoEV1ForCausalLM",
    tiny={**TINY, "num_experts": 4, "moe_topk": [2, 1], "head_dim": 16, "use_qk_norm": True},
)
def hunyuan_v1_moe(config: ConfigReader) -> ModelSpec:
    """Hunyuan-A13B."""
    attention = hunyuan_attention(config, rms_norm(config))
    return decoder(config, attention=attention, mlp=_experts(config))


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
