"""What GGUF calls settings and tensors, and what config.json and its checkpoints call them.

Source: the key and tensor names of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

__all__ = [
    "APART",
    "ATTENTION_BIAS",
    "DELTA_NET",
    "DELTA_NET_SHARES",
    "DELTA_NET_SIZES",
    "EXPERTS",
    "FLAT",
    "FUSED",
    "KEYS",
    "LATENT",
    "LATENT_KEYS",
    "LOGARITHMS",
    "MAMBA",
    "MAMBA_SIZES",
    "NEMOTRON",
    "OF_VALUE_HEADS",
    "QKV",
    "REDUNDANT",
    "SANDWICH",
    "SHARED_EXPERTS",
    "SHARES",
    "SPARSE_BLOCK",
    "TENSORS",
    "TENSORS_OF_LAYER",
    "TURNED",
    "UNSQUEEZED",
    "Names",
]

Names: TypeAlias = Mapping[str, str | tuple[str, ...]]
"""Tensor of a layer → module behind the layer's name; both without an ending, or both with.

Several modules: their rows stand in the tensor one after another.  "{}": the tensor is a stack of
them, and this is the number of one."""

# Key without the architecture in front → key of config.json.  Settings of families that are not
# read yet are among them, so that a family that does not know one refuses it.
KEYS: Mapping[str, str] = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "attention.sliding_window_pattern": "sliding_window_pattern",
    "attention.clamp_kqv": "clip_qkv",
    "attention.scale": "attention_multiplier",
    "attention.temperature_scale": "attn_scale",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "logit_scale": "logit_scale",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "use_parallel_residual": "use_parallel_residual",
    "attention.max_alibi_bias": "alibi",
    "attention.q_lora_rank": "q_lora_rank",
    "attention.kv_lora_rank": "kv_lora_rank",
    "expert_count": "num_local_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_count": "n_shared_experts",
    "expert_shared_feed_forward_length": "shared_intermediate_size",
    "expert_group_count": "n_group",
    "expert_group_used_count": "topk_group",
    "expert_weights_scale": "routed_scaling_factor",
    "expert_weights_norm": "norm_topk_prob",
    "expert_gating_func": "scoring_func",
    "leading_dense_block_count": "first_k_dense_replace",
    "interleave_moe_layer_step": "interleave_moe_layer_step",
    "nextn_predict_layers": "num_nextn_predict_layers",
}

REDUNDANT = frozenset(
    {
        *("vocab_size", "tensor_data_layout", "attention.value_length", "attention.causal"),
        *("rope.scaling.finetuned", "expert_shared_feed_forward_length"),
    }
)
"""Keys that say what the tensors or the vocabulary say as well, or nothing about inference."""

TENSORS: Mapping[str, str] = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
TENSORS_OF_LAYER: Names = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
APART: Names = {f"attn_{each}": f"self_attn.{each}_proj" for each in "qkv"}
QKV: Names = {"attn_qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")}
FUSED: Names = {**QKV, "ffn_up": ("mlp.gate_proj", "mlp.up_proj")}
"""Of architectures that have them side by side."""
EXPERTS: Names = {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.{}.gate_proj",
    "ffn_up_exps": "mlp.experts.{}.up_proj",
    "ffn_down_exps": "mlp.experts.{}.down_proj",
    "exp_probs_b.bias": "mlp.gate.e_score_correction_bias",
}
SHARED_EXPERTS: Names = {
    "ffn_gate_shexp": "mlp.shared_experts.gate_proj",
    "ffn_up_shexp": "mlp.shared_experts.up_proj",
    "ffn_down_shexp": "mlp.shared_experts.down_proj",
}
SPARSE_BLOCK: Names = {
    "ffn_gate_inp": "block_sparse_moe.gate",
    "ffn_gate_exps": "block_sparse_moe.experts.{}.w1",
    "ffn_up_exps": "block_sparse_moe.experts.{}.w3",
    "ffn_down_exps": "block_sparse_moe.experts.{}.w2",
    "exp_probs_b.bias": "block_sparse_moe.e_score_correction_bias",
}
LATENT: Names = {
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_kv_b": "self_attn.kv_b_proj",
}
SANDWICH: Names = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
LATENT_KEYS: Mapping[str, str | None] = {
    "rope.dimension_count": "qk_rope_head_dim",
    "attention.key_length": "key_length",
    "attention.value_length": "value_length",
    "attention.key_length_mla": "key_length_mla",
    "attention.value_length_mla": "value_length_mla",
}
"""Of latent attention; quire.weights.gguf.rules.latent_sizes makes of them what config.json has."""

ATTENTION_BIAS = {"attention_bias": ("blk.0.attn_q.bias", "blk.0.attn_qkv.bias")}
TURNED = {"attn_q": "attention.head_count", "attn_k": "attention.head_count_kv"}

SHARES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "attn_qkv": (
        ("attention.head_count",),
        ("attention.head_count_kv",),
        ("attention.head_count_kv",),
    )
}

# Layers with a state.
MAMBA: Names = {
    "ssm_in": "mamba.in_proj",
    "ssm_conv1d": "mamba.conv1d",
    "ssm_a": "mamba.A_log",
    "ssm_d": "mamba.D",
    "ssm_dt.bias": "mamba.dt_bias",
    "ssm_norm": "mamba.norm",
    "ssm_out": "mamba.out_proj",
}
NEMOTRON: Names = {
    **{own: str(module).replace("mamba", "mixer") for own, module in MAMBA.items()},
    "attn_norm": "norm",
    **{f"attn_{each}": f"mixer.{each}_proj" for each in "qkv"},
    "attn_output": "mixer.o_proj",
    **{f"ffn_{each}": f"mixer.{each}_proj" for each in ("up", "down")},
    **{f"ffn_{each}_exps": f"mixer.experts.{{}}.{each}_proj" for each in ("up", "down")},
    **{f"ffn_{each}_shexp": f"mixer.shared_experts.{each}_proj" for each in ("up", "down")},
    "ffn_gate_inp": "mixer.gate",
    "exp_probs_b.bias": "mixer.gate.e_score_correction_bias",
}
DELTA_NET: Names = {
    "attn_qkv": ("linear_attn.q_proj", "linear_attn.k_proj", "linear_attn.v_proj"),
    "attn_gate": "linear_attn.z_proj",
    "ssm_alpha": "linear_attn.a_proj",
    "ssm_beta": "linear_attn.b_proj",
    "ssm_conv1d": ("linear_attn.q_conv", "linear_attn.k_conv", "linear_attn.v_conv"),
    "ssm_a": "linear_attn.A_log",
    "ssm_dt.bias": "linear_attn.dt_bias",
    "ssm_norm": "linear_attn.norm",
    "ssm_out": "linear_attn.out_proj",
    "post_attention_norm": "post_attention_layernorm",
}
DELTA_NET_SHARES: Mapping[str, tuple[tuple[str, ...], ...]] = dict.fromkeys(
    ("attn_qkv", "ssm_conv1d"),
    (("ssm.group_count", "ssm.state_size"),) * 2 + (("ssm.inner_size",),),
)
OF_VALUE_HEADS: Mapping[str, Literal["rows", "columns"]] = {
    **{f"linear_attn.{each}_proj": "rows" for each in ("v", "z", "a", "b")},
    **dict.fromkeys(("linear_attn.v_conv", "linear_attn.A_log", "linear_attn.dt_bias"), "rows"),
    "linear_attn.out_proj": "columns",
}
MAMBA_SIZES: Mapping[str, str] = {
    f"ssm.{each}": f"ssm.{each}"
    for each in ("conv_kernel", "state_size", "group_count", "inner_size", "time_step_rank")
}
DELTA_NET_SIZES: Mapping[str, str | None] = {
    **MAMBA_SIZES,
    "ssm.conv_kernel": "linear_conv_kernel_dim",
    "ssm.state_size": "linear_key_head_dim",
    "ssm.group_count": "linear_num_key_heads",
    "ssm.time_step_rank": "linear_num_value_heads",
    "full_attention_interval": "full_attention_interval",
    "attention.recurrent_layers": None,
}
"""Sizes of layers with a state; quire.weights.gguf.rules makes of them what config.json has."""

LOGARITHMS = frozenset({"ssm_a"})
FLAT = frozenset({"ssm_a", "ssm_d", "ssm_norm.weight"})
UNSQUEEZED = frozenset({"ssm_conv1d.weight"})
"""Tensors of a layer that stand in another way than in checkpoints (see tensor_of_weight)."""
