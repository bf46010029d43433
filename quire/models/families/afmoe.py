"""AFMoE: gated attention, rotated where it has a window, norms on both sides, many small experts.

Source: the AfmoeForCausalLM config of transformers.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import (
    TINY,
    BlockNorms,
    GroupedMaker,
    decoder,
    grouped_attention,
    rms_norm,
)
from quire.models.families.deepseek_experts import Choice, deepseek_experts
from quire.models.families.parts import head_dim, linear
from quire.models.families.rope_config import read_rope
from quire.models.families.windows import SLIDING, types_by_pattern, windows_of
from quire.models.places import Layout
from quire.models.registry import family
from quire.models.spec import Attention, ModelSpec
from quire.models.stored_as import stored_as

__all__ = ["afmoe"]

TINY_AFMOE = {
    **TINY,
    "num_hidden_layers": 4,
    "head_dim": 16,
    "sliding_window": 8,
    "num_dense_layers": 1,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "num_shared_experts": 1,
    "moe_intermediate_size": 48,
    "mup_enabled": True,
}
NORMS = BlockNorms(
    "input_layernorm", "pre_mlp_layernorm", "post_attention_layernorm", "post_mlp_layernorm"
)
BY_SIGMOID = Choice("sigmoid", normalised=True, has_bias=True)
GROUPS = ("n_group", "topk_group", "num_expert_groups", "num_limited_groups")
UNHEEDED = ("load_balance_coeff", "use_grouped_mm")
"""Of training, and of how experts are computed."""


@family("AfmoeForCausalLM", tiny=TINY_AFMOE)
def afmoe(config: ConfigReader) -> ModelSpec:
    """Trinity Nano, Mini and Large."""
    config.expect("score_func", "sigmoid")
    config.expect("route_norm", True)
    for key in GROUPS:
        config.expect(key, 1)
    for key in UNHEEDED:
        config.get(key)
    experts = config.renamed(
        {"n_routed_experts": "num_experts"},
        first_k_dense_replace=config.integer("num_dense_layers", 1),
        n_shared_experts=config.integer("num_shared_experts", 2),
        routed_scaling_factor=config.number("route_scale", 1.0, low=1e-6, high=1e6),
    )
    spec = decoder(
        config,
        attention=_gated_attention(config),
        mlp=deepseek_experts(experts, BY_SIGMOID, "expert_bias"),
        norm=rms_norm(config, eps=1e-5),
        block_norms=NORMS,
        embedding_scale=config.positive("hidden_size") ** 0.5 if config.flag("mup_enabled") else 1,
    )
    return stored_as(spec, Layout(names={"mlp.gate": "mlp.router.gate"}))


def _gated_attention(config: ConfigReader) -> GroupedMaker:
    """Norms of heads, and a gate; every so many layers see everything, and do not rotate."""
    width, heads = config.positive("hidden_size"), config.positive("num_attention_heads")
    dim, bias = head_dim(config, 128), config.flag("attention_bias")
    types = types_by_pattern(config, config.positive("global_attn_every_n_layers", 4))
    rope = read_rope(config, dim)
    ungated = grouped_attention(
        config,
        qkv_bias=bias,
        output_bias=bias,
        qk_norm="heads",
        norm=rms_norm(config, eps=1e-5),
        dim=dim,
        ropes=[rope if each == SLIDING else None for each in types],
        windows=windows_of(config, types),
    )
    rows = partial(linear, out=heads * dim, width=width, split="rows", bias=False, unit=dim)

    def attention(layer: int, prefix: str) -> Attention:
        return replace(ungated(layer, prefix), gate=rows(prefix + "gate_proj"))

    return attention
