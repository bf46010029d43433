"""Phi-3.5-MoE: layer norms, biases everywhere but in its experts, and the sparsemixer.

Source: the PhimoeForCausalLM config of transformers; arXiv:2409.12136 (sparsemixer).
"""

from __future__ import annotations

from functools import partial

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, MlpMaker, decoder, grouped_attention
from quire.models.families.experts import expert_count, expert_mlps, router
from quire.models.families.mixtral import NAMES
from quire.models.families.parts import activation, layer_norm, num_layers
from quire.models.families.windows import sliding_window
from quire.models.registry import family
from quire.models.spec import MixtureOfExperts, ModelSpec

__all__ = ["phimoe"]


@family(
    "PhimoeForCausalLM",
    "PhiMoEForCausalLM",
    tiny={
        **TINY,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "attention_bias": True,
        "lm_head_bias": True,
        "router_jitter_noise": 0.01,
        "sliding_window": None,
    },
)
def phimoe(config: ConfigReader) -> ModelSpec:
    """Phi-3.5-MoE."""
    bias = config.flag("attention_bias")
    eps = config.number("rms_norm_eps", 1e-5, low=0.0, high=1.0)
    attention = grouped_attention(
        config,
        qkv_bias=bias,
        output_bias=bias,
        windows=(sliding_window(config),) * num_layers(config),
    )
    return decoder(
        config,
        attention=attention,
        mlp=_experts(config),
        norm=partial(layer_norm, eps=eps),
        head_bias=config.flag("lm_head_bias"),
    )


def _experts(config: ConfigReader) -> MlpMaker:
    """Two experts, each weighed among those whose logits are near its own."""
    count = expert_count(config, "num_local_experts")
    top_k, inner = config.positive("num_experts_per_tok", 2), config.positive("intermediate_size")
    jitter, kind = config.number("router_jitter_noise", 0.01, low=0.0, high=1.0), activation(config)
    if top_k != 2:
        raise ModelError(
            f"{config.architecture}: num_experts_per_tok is {top_k}; its router chooses 2"
        )

    def mixture(layer: int, prefix: str) -> MixtureOfExperts:
        prefix = prefix.removesuffix("mlp.") + "block_sparse_moe."
        return MixtureOfExperts(
            router(config, prefix + "gate", count, 2, scoring="sparsemixer", jitter=jitter),
            expert_mlps(config, prefix + "experts.", count, inner, kind=kind, names=NAMES),
        )

    return mixture
