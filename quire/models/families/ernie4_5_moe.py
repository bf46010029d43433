"""ERNIE 4.5 with experts: Llama's block, rotated in neighbouring pairs, and a bias that chooses.

Source: the Ernie4_5_MoeForCausalLM config of transformers.
"""

from __future__ import annotations

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, MlpMaker, decoder, dense_mlp, grouped_attention
from quire.models.families.experts import (
    chosen_layers,
    expert_count,
    expert_mlps,
    first_of,
    router,
)
from quire.models.families.parts import activation, gated_mlp, head_dim, num_layers
from quire.models.families.rope_config import read_rope
from quire.models.registry import family
from quire.models.spec import MixtureOfExperts, ModelSpec, Weight

__all__ = ["ernie4_5_moe"]


@family(
    "Ernie4_5_MoeForCausalLM",
    tiny={
        **TINY,
        "moe_num_experts": 8,
        "moe_k": 3,
        "moe_intermediate_size": 48,
        "moe_num_shared_experts": 2,
        "moe_layer_start_index": 1,
        "moe_layer_end_index": -1,
    },
)
def ernie4_5_moe(config: ConfigReader) -> ModelSpec:
    """ERNIE-4.5-21B-A3B and ERNIE-4.5-300B-A47B."""
    bias, layers = config.flag("use_bias"), num_layers(config)
    config.expect("moe_gate", "topk")
    config.expect("moe_use_aux_free", True)
    for key in ("moe_capacity", "num_nextn_predict_layers"):
        config.get(key)  # of training, and of layers that guess ahead
    rope = read_rope(config, head_dim(config), pairing="interleaved", theta=500000.0)
    attention = grouped_attention(config, qkv_bias=bias, output_bias=bias, ropes=(rope,) * layers)
    return decoder(
        config,
        attention=attention,
        mlp=_experts(config, bias),
        head_bias=bias,
        tied=True,
        unused=("model.mtp_",),
    )


def _experts(config: ConfigReader, bias: bool) -> MlpMaker:
    """Experts from moe_layer_start_index to moe_layer_end_index, in every so many layers."""
    count = expert_count(config, "moe_num_experts", "num_experts", "num_local_experts")
    top_k = config.positive(first_of(config, "moe_k", "num_experts_per_tok"))
    shared, inner = (
        config.integer("moe_num_shared_experts", 0),
        config.positive("moe_intermediate_size"),
    )
    width, kind = config.positive("hidden_size"), activation(config)
    first, step = (
        config.integer("moe_layer_start_index", 1),
        config.positive("moe_layer_interval", 1),
    )
    last = config.integer("moe_layer_end_index", -1, low=-1) % num_layers(config)
    least_sum = config.number("moe_norm_min", 1e-12, low=0.0, high=1e6)

    def mixture(layer: int, prefix: str) -> MixtureOfExperts:
        name = prefix + "moe_statics.e_score_correction_bias"
        return MixtureOfExperts(
            router(
                config,
                prefix + "gate",
                count,
                top_k,
                normalised=True,
                least_sum=least_sum,
                selection_bias=Weight(name, (1, count)),
            ),
            expert_mlps(config, prefix + "experts.", count, inner, kind=kind),
            gated_mlp(prefix + "shared_experts.", width, shared * inner, bias, kind)
            if shared
            else None,
        )

    return chosen_layers(
        lambda layer: first <= layer <= last and (layer + 1) % step == 0,
        mixture,
        dense_mlp(config, bias),
    )
