"""OLMoE: experts in every layer, and heads normalised as one row.

Source: the OlmoeForCausalLM config of transformers; arXiv:2409.02060.
"""

from __future__ import annotations

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, MlpMaker, decoder, grouped_attention
from quire.models.families.experts import expert_count, expert_mlps, router
from quire.models.families.parts import activation
from quire.models.registry import family
from quire.models.spec import MixtureOfExperts, ModelSpec

__all__ = ["olmoe"]


@family(
    "OlmoeForCausalLM",
    tiny={**TINY, "num_experts": 8, "num_experts_per_tok": 3, "norm_topk_prob": False},
)
def olmoe(config: ConfigReader) -> ModelSpec:
    """OLMoE-1B-7B."""
    bias = config.flag("attention_bias")
    attention = grouped_attention(config, qkv_bias=bias, output_bias=bias, qk_norm="rows")
    return decoder(config, attention=attention, mlp=_experts(config))


def _experts(config: ConfigReader) -> MlpMaker:
    count = expert_count(config, "num_experts", "num_local_experts")
    top_k, inner = config.positive("num_experts_per_tok"), config.positive("intermediate_size")
    kind, normalised = activation(config), config.flag("norm_topk_prob")
    return lambda layer, prefix: MixtureOfExperts(
        router(config, prefix + "gate", count, top_k, normalised=normalised),
        expert_mlps(config, prefix + "experts.", count, inner, kind=kind),
    )
