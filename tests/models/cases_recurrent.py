"""Random checkpoints of the families whose layers carry a state from token to token."""

from __future__ import annotations

from typing import Any

from quire.models.families.decoder import TINY
from tests.models.case import Case

__all__ = ["CASES"]

HYBRID: dict[str, Any] = {
    **TINY,
    "pad_token_id": 0,
    "num_hidden_layers": 4,
    "head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 24,
}
EXPERTS: dict[str, Any] = {
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 40,
    "shared_expert_intermediate_size": 56,
}
NEXT: dict[str, Any] = {**HYBRID, "num_experts": 0, "mlp_only_layers": [0, 1, 2, 3]}

GRANITE: dict[str, Any] = {
    **TINY,
    "pad_token_id": 0,
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
    "num_local_experts": 0,
    "shared_intermediate_size": 96,
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 24,
    "mamba_n_groups": 1,
    "embedding_multiplier": 1.5,
    "logits_scaling": 0.7,
    "residual_multiplier": 0.6,
    "attention_multiplier": 0.2,
}

BAMBA: dict[str, Any] = {
    **TINY,
    "pad_token_id": 0,
    "num_hidden_layers": 3,
    "mamba_n_heads": 4,
    "mamba_d_head": 32,
    "mamba_d_state": 16,
}
NEMOTRON: dict[str, Any] = {
    **{key: value for key, value in TINY.items() if key != "num_hidden_layers"},
    "pad_token_id": 0,
    "head_dim": 16,
    "mamba_num_heads": 8,
    "mamba_head_dim": 12,
    "ssm_state_size": 24,
    "n_groups": 2,
}


NEMOTRON_EXPERTS: dict[str, Any] = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 40,
    "moe_shared_expert_intermediate_size": 56,
    "routed_scaling_factor": 2.5,
    "n_group": 4,
    "topk_group": 2,
}


FALCON: dict[str, Any] = {
    **TINY,
    "pad_token_id": 0,
    "head_dim": 16,
    "mamba_d_ssm": 96,
    "mamba_n_heads": 6,
    "mamba_d_head": 16,
    "mamba_d_state": 24,
    "embedding_multiplier": 3.0,
    "lm_head_multiplier": 0.3,
    "key_multiplier": 6.5,
    "attention_in_multiplier": 1.5,
    "attention_out_multiplier": 5.5,
    "ssm_in_multiplier": 1.75,
    "ssm_out_multiplier": 0.6,
    "ssm_multipliers": [0.6, 1.4, 2.5, 2.0, 1.3],
    "mlp_multipliers": [1.6, 2.3],
}


def nemotron(name: str, pattern: str, **fields: Any) -> Case:
    """Older files have the pattern in place of the list."""
    old = {"layers_block_type": ..., "hybrid_override_pattern": pattern}
    fields = {**NEMOTRON, "hybrid_override_pattern": pattern, **fields}
    return Case(name, "nemotron_h", fields, old=old)


CASES: tuple[Case, ...] = (
    Case("qwen3-next", "qwen3_next", NEXT),
    Case(
        "qwen3-next-experts",
        "qwen3_next",
        {
            **HYBRID,
            **EXPERTS,
            "num_hidden_layers": 3,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "mlp_only_layers": [1],
        },
    ),
    Case("qwen3-next-equal-heads", "qwen3_next", {**NEXT, "linear_num_value_heads": 2}),
    Case(
        "qwen3-next-order",
        "qwen3_next",
        {
            **NEXT,
            "num_hidden_layers": 3,
            "layer_types": ["full_attention", "linear_attention", "linear_attention"],
            "linear_conv_kernel_dim": 2,
            "attention_bias": True,
        },
    ),
    Case("qwen3.5-experts", "qwen3_5_moe_text", {**HYBRID, **EXPERTS}),
    Case(
        "qwen3.5-experts-normalised",
        "qwen3_5_moe_text",
        {**HYBRID, **EXPERTS, "num_experts_per_tok": 4, "linear_num_value_heads": 2},
    ),
    Case(
        "qwen3.5-experts-order",
        "qwen3_5_moe_text",
        {
            **HYBRID,
            **EXPERTS,
            "num_hidden_layers": 2,
            "layer_types": ["full_attention", "linear_attention"],
            "tie_word_embeddings": True,
            "num_experts": 3,
        },
    ),
    Case("qwen3.5", "qwen3_5_text", HYBRID),
    Case(
        "qwen3.5-order",
        "qwen3_5_text",
        {
            **HYBRID,
            "num_hidden_layers": 2,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_conv_kernel_dim": 2,
            "attention_bias": True,
        },
    ),
    Case("granite-h", "granitemoehybrid", GRANITE),
    Case(
        "granite-h-experts",
        "granitemoehybrid",
        {**GRANITE, "num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 40},
    ),
    Case(
        "granite-h-rope",
        "granitemoehybrid",
        {
            **GRANITE,
            "position_embedding_type": "rope",
            "mamba_n_groups": 2,
            "mamba_conv_bias": False,
            "mamba_proj_bias": True,
            "time_step_limit": [0.2, 0.9],
        },
    ),
    Case(
        "bamba",
        "bamba",
        {**BAMBA, "attn_layer_indices": [1], "attention_bias": True},
    ),
    Case(
        "bamba-groups",
        "bamba",
        {
            **BAMBA,
            "attn_layer_indices": [0, 2],
            "mamba_n_groups": 2,
            "mamba_proj_bias": True,
            "mamba_d_conv": 3,
            "mlp_bias": True,
        },
    ),
    Case(
        "bamba-plain",
        "bamba",
        {
            **BAMBA,
            "attn_layer_indices": [2],
            "mamba_conv_bias": False,
            "num_key_value_heads": 4,
            "tie_word_embeddings": True,
            "rms_norm_eps": 1e-3,
        },
    ),
    Case("falcon-h1", "falcon_h1", FALCON),
    Case(
        "falcon-h1-norms",
        "falcon_h1",
        {
            **FALCON,
            "mamba_rms_norm": True,
            "ssm_multipliers": [0.3, 0.4, 0.5, 0.5, 1.3],
            "ssm_out_multiplier": 3.0,
            "mamba_norm_before_gate": False,
            "mamba_n_groups": 2,
            "num_key_value_heads": 1,
            "mlp_bias": True,
            "mamba_conv_bias": False,
        },
    ),
    Case(
        "falcon-h1-plain",
        "falcon_h1",
        {
            **FALCON,
            "mamba_d_ssm": None,
            "mamba_n_heads": 8,
            "mamba_n_groups": 4,
            "mamba_d_conv": 3,
            "tie_word_embeddings": True,
            "ssm_multipliers": None,
            "mlp_multipliers": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e11},
        },
    ),
    nemotron("nemotron-h", "M-M*-"),
    nemotron(
        "nemotron-h-biases", "*MM--", n_groups=4, use_bias=True, mlp_bias=True, use_conv_bias=False
    ),
    nemotron(
        "nemotron-h-one-group",
        "-MM*M",
        n_groups=1,
        conv_kernel=3,
        layer_norm_epsilon=1e-3,
        num_key_value_heads=1,
        time_step_min=0.2,
        time_step_limit=[0.2, float("inf")],
    ),
    nemotron("nemotron-h-experts", "ME*M-", **NEMOTRON_EXPERTS),
    Case("qwen3.5-tied", "qwen3_5_text", {**HYBRID, "tie_word_embeddings": True}),
)
