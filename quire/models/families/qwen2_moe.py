"""Qwen2-MoE: the Qwen2 block with experts in some layers, and one that every token meets.

Source: the Qwen2MoeForCausalLM config of transformers.
"""

from __future__ import annotations

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, MlpMaker, decoder, dense_mlp, grouped_attention
from quire.models.families.experts import chosen_layers, expert_count, expert_mlps, router
from quire.models.families.parts import activation, gated_mlp, num_layers
from quire.models.families.windows import layer_windows
from quire.models.registry import family
from quire.models.spec import GatedMLP, MixtureOfExperts, ModelSpec, Weight

__all__ = ["TINY_EXPERTS", "qwen2_moe", "qwen_experts"]

TINY_EXPERTS = {
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 48,
    "norm_topk_prob": False,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}


@family(
    "Qwen2MoeForCausalLM",
    tiny={**TINY, **TINY_EXPERTS, "shared_expert_intermediate_size": 96, "qkv_bias": True},
)
def qwen2_moe(config: ConfigReader) -> ModelSpec:
    """Qwen1.5-MoE-A2.7B and Qwen2-57B-A14B."""
    windows = layer_windows(config)
    attention = grouped_attention(config, qkv_bias=config.flag("qkv_bias", True), windows=windows)
    shared = config.positive("shared_expert_intermediate_size", 5632)
    return decoder(config, attention=attention, mlp=qwen_experts(config, shared))


def qwen_experts(
    config: ConfigReader, shared_width: int | None = None, normalised: bool = False
) -> MlpMaker:
    """Experts weighed by a softmax over all of them, and a gated shared one where it has a width.

    Only every decoder_sparse_step-th layer has them, and none of mlp_only_layers.  normalised: the
    default of norm_topk_prob.
    """
    count = expert_count(config, "num_experts", "num_local_experts")
    top_k, inner = config.positive("num_experts_per_tok"), config.positive("moe_intermediate_size")
    width, kind = config.positive("hidden_size"), activation(config)
    normalised = config.flag("norm_topk_prob", normalised)
    step, dense = config.positive("decoder_sparse_step", 1), config.get("mlp_only_layers", [])
    if not isinstance(dense, list) or not all(isinstance(layer, int) for layer in dense):
        raise ModelError(
            f"{config.architecture}: mlp_only_layers is {dense!r}; expected a list of layers"
        )

    def shared_expert(prefix: str) -> GatedMLP | None:
        return gated_mlp(prefix, width, shared_width, kind=kind) if shared_width else None

    def mixture(layer: int, prefix: str) -> MixtureOfExperts:
        gate = Weight(prefix + "shared_expert_gate.weight", (1, width))
        return MixtureOfExperts(
            router(config, prefix + "gate", count, top_k, normalised=normalised),
            expert_mlps(config, prefix + "experts.", count, inner, kind=kind),
            shared_expert(prefix + "shared_expert."),
            gate if shared_width else None,
        )

    def is_sparse(layer: int) -> bool:
        return layer not in dense and (layer + 1) % step == 0

    if all(map(is_sparse, range(num_layers(config)))):
        config.get("intermediate_size")  # of dense layers, which there are none of
        return mixture
    return chosen_layers(is_sparse, mixture, dense_mlp(config))
