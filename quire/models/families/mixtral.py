"""Mixtral: the Mistral block with experts in place of the MLP.

Source: the MixtralForCausalLM config of transformers; arXiv:2401.04088.
"""

from __future__ import annotations

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, MlpMaker, decoder, grouped_attention
from quire.models.families.experts import expert_count, expert_mlps, router
from quire.models.families.parts import activation, num_layers
from quire.models.families.windows import sliding_window
from quire.models.registry import family
from quire.models.spec import MixtureOfExperts, ModelSpec

__all__ = ["NAMES", "mixtral", "mixtral_experts"]

NAMES = ("w1", "w3", "w2")
"""Of the matrices of an expert: gate, up, down."""


@family(
    "MixtralForCausalLM",
    tiny={**TINY, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
)
def mixtral(config: ConfigReader) -> ModelSpec:
    """Mixtral 8x7B and 8x22B."""
    windows = (sliding_window(config),) * num_layers(config)
    attention = grouped_attention(config, windows=windows)
    return decoder(config, attention=attention, mlp=mixtral_experts(config))


def mixtral_experts(config: ConfigReader) -> MlpMaker:
    """Experts behind block_sparse_moe, weighed by a softmax over those chosen."""
    count = expert_count(config, "num_local_experts", "num_experts")
    top_k, inner = config.positive("num_experts_per_tok", 2), config.positive("intermediate_size")
    kind = activation(config)

    def mixture(layer: int, prefix: str) -> MixtureOfExperts:
        prefix = prefix.removesuffix("mlp.") + "block_sparse_moe."
        return MixtureOfExperts(
            router(config, prefix + "gate", count, top_k, normalised=True),
            expert_mlps(config, prefix + "experts.", count, inner, kind=kind, names=NAMES),
        )

    return mixture
