"""MiniMax-M2: Mixtral's names, heads normalised as one row, a sigmoid router with a bias.

Source: the MiniMaxM2ForCausalLM config of transformers.
"""

from __future__ import annotations

from dataclasses import replace

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, MlpMaker, decoder, grouped_attention
from quire.models.families.experts import expert_count, expert_mlps, router
from quire.models.families.mixtral import NAMES
from quire.models.families.parts import activation, num_layers
from quire.models.families.rope_config import read_rope
from quire.models.registry import family
from quire.models.spec import MixtureOfExperts, ModelSpec, Weight

__all__ = ["minimax_m2"]


@family(
    "MiniMaxM2ForCausalLM",
    tiny={
        **TINY,
        "num_local_experts": 8,
        "num_experts_per_tok": 3,
        "head_dim": 16,
        "rotary_dim": 8,
    },
)
def minimax_m2(config: ConfigReader) -> ModelSpec:
    """MiniMax-M2."""
    dim, layers = config.positive("head_dim", 128), num_layers(config)
    rope = read_rope(config, dim)
    rotated = config.integer("rotary_dim", rope.dims)
    if rotated % 2 or not 0 < rotated <= dim:
        raise ModelError(
            f"{config.architecture}: rotary_dim is {rotated}; expected an even number of at most "
            f"{dim}, the head_dim"
        )
    config.expect("attn_type_list", [1] * layers)
    config.expect("qk_norm_type", "per_layer")
    config.expect("use_routing_bias", True)
    for key in ("use_mtp", "num_mtp_modules", "mtp_transformer_layers"):
        config.get(key)  # of layers that guess ahead
    attention = grouped_attention(
        config,
        qk_norm="rows" if config.flag("use_qk_norm", True) else None,
        dim=dim,
        ropes=(replace(rope, dims=rotated),) * layers,
    )
    return decoder(config, attention=attention, mlp=_experts(config), unused=("model.mtp.",))


def _experts(config: ConfigReader) -> MlpMaker:
    count = expert_count(config, "num_local_experts", "num_experts")
    top_k, inner = config.positive("num_experts_per_tok"), config.positive("intermediate_size")
    kind, scoring = activation(config), config.get("scoring_func", "sigmoid")
    if scoring != "sigmoid":
        raise ModelError(f"{config.architecture}: scoring_func {scoring!r} is not supported")

    def mixture(layer: int, prefix: str) -> MixtureOfExperts:
        prefix = prefix.removesuffix("mlp.") + "block_sparse_moe."
        bias = Weight(prefix + "e_score_correction_bias", (count,))
        return MixtureOfExperts(
            router(
                config,
                prefix + "gate",
                count,
                top_k,
                scoring="sigmoid",
                normalised=True,
                selection_bias=bias,
            ),
            expert_mlps(config, prefix + "experts.", count, inner, kind=kind, names=NAMES),
        )

    return mixture
