"""Random checkpoints with experts; the cases of a family differ in every option."""

from __future__ import annotations

from typing import Any

from quire.models.families.decoder import TINY
from tests.models.case import Case

BASE: dict[str, Any] = {**TINY, "pad_token_id": 0, "num_hidden_layers": 3}


def mixtral(name: str, **fields: Any) -> Case:
    values = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16}
    return Case(name, "mixtral", {**BASE, **values, **fields})


def qwen(name: str, model_type: str, **fields: Any) -> Case:
    values = {
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 40,
        "norm_topk_prob": False,
    }
    return Case(name, model_type, {**BASE, **values, **fields})


def local(name: str, model_type: str, **fields: Any) -> Case:
    values = {"num_local_experts": 5, "num_experts_per_tok": 2}
    return Case(name, model_type, {**BASE, **values, **fields})


def olmoe(name: str, **fields: Any) -> Case:
    values = {"num_experts": 5, "num_experts_per_tok": 2}
    return Case(name, "olmoe", {**BASE, **values, **fields})


def llama4(name: str, **fields: Any) -> Case:
    values = {
        "num_local_experts": 5,
        "num_experts_per_tok": 1,
        "intermediate_size_mlp": 80,
        "interleave_moe_layer_step": 1,
        "moe_layers": [0, 1, 2],
        "no_rope_layers": [1, 1, 0],
        "attention_chunk_size": 8,
        "floor_scale": 4,
        "attn_scale": 0.5,
        "head_dim": 16,
    }
    return Case(name, "llama4_text", {**BASE, **values, **fields})


def ernie(name: str, **fields: Any) -> Case:
    values = {
        "moe_num_experts": 6,
        "moe_k": 3,
        "moe_intermediate_size": 40,
        "moe_num_shared_experts": 2,
        "moe_layer_start_index": 1,
        "moe_layer_end_index": 2,
        "moe_layer_interval": 1,
        "moe_norm_min": 1.25,
        "tie_word_embeddings": True,
    }
    return Case(name, "ernie4_5_moe", {**BASE, **values, **fields})


def hunyuan(name: str, **fields: Any) -> Case:
    values = {"num_experts": 5, "moe_topk": 2, "head_dim": 16}
    return Case(name, "hunyuan_v1_moe", {**BASE, **values, **fields})


def deepseek(name: str, model_type: str, **fields: Any) -> Case:
    values = {
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
        "head_dim": 16,
    }
    if model_type == "solar_open":  # has experts in all layers
        del values["first_k_dense_replace"]
    return Case(name, model_type, {**BASE, **values, **fields})


def exaone(name: str, **fields: Any) -> Case:
    values = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
    return Case(name, "exaone_moe", {**BASE, **values, "sliding_window": 8, **fields})


def hunyuan_v3(name: str, **fields: Any) -> Case:
    values = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
    return Case(name, "hy_v3", {**BASE, **values, "head_dim": 16, **fields})


def afmoe(name: str, **fields: Any) -> Case:
    values = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
    values |= {"num_dense_layers": 1, "num_shared_experts": 1, "head_dim": 16}
    return Case(name, "afmoe", {**BASE, **values, "sliding_window": 8, **fields})


SLIDING, FULL = "sliding_attention", "full_attention"
GROUPS = {"n_group": 4, "topk_group": 2, "norm_topk_prob": True, "routed_scaling_factor": 2.5}

CASES = (
    mixtral("mixtral"),
    mixtral("mixtral-window", sliding_window=8, num_experts_per_tok=1),
    mixtral("mixtral-many", num_local_experts=9, num_experts_per_tok=4, intermediate_size=33),
    qwen("qwen2-moe", "qwen2_moe", shared_expert_intermediate_size=56),
    qwen("qwen2-moe-step", "qwen2_moe", shared_expert_intermediate_size=96, decoder_sparse_step=2,
         norm_topk_prob=True, num_experts_per_tok=5),
    qwen("qwen2-moe-bare", "qwen2_moe", shared_expert_intermediate_size=24, qkv_bias=False,
         mlp_only_layers=[1], num_experts=3),
    qwen("qwen3-moe", "qwen3_moe", head_dim=32, norm_topk_prob=True),
    qwen("qwen3-moe-bias", "qwen3_moe", head_dim=16, attention_bias=True, mlp_only_layers=[0]),
    qwen("qwen3-moe-step", "qwen3_moe", head_dim=8, decoder_sparse_step=3, num_experts_per_tok=4,
         norm_topk_prob=True, tie_word_embeddings=True),
    deepseek("deepseek", "deepseek", norm_topk_prob=False),
    deepseek("deepseek-normalised", "deepseek", norm_topk_prob=True, first_k_dense_replace=0,
             n_shared_experts=2),
    deepseek("deepseek-freq", "deepseek", norm_topk_prob=False, moe_layer_freq=2,
             num_experts_per_tok=1, attention_bias=True),
    deepseek("glm4-moe", "glm4_moe", use_qk_norm=True, **GROUPS),
    deepseek("glm4-moe-plain", "glm4_moe", attention_bias=True, n_group=1, topk_group=1,
             norm_topk_prob=False, n_shared_experts=2),
    deepseek("glm4-moe-dense", "glm4_moe", **{**GROUPS, "topk_group": 1, "n_group": 2},
             first_k_dense_replace=2, partial_rotary_factor=1.0, num_experts_per_tok=4),
    deepseek("dots1", "dots1", norm_topk_prob=True, sliding_window=8,
             layer_types=[SLIDING, FULL, SLIDING]),
    deepseek("dots1-biases", "dots1", **GROUPS, attention_bias=True, sliding_window=None),
    deepseek("dots1-windows", "dots1", max_window_layers=1, sliding_window=8, n_shared_experts=2,
             num_key_value_heads=1, tie_word_embeddings=True, routed_scaling_factor=3.0,
             num_experts_per_tok=1, norm_topk_prob=False),
    exaone("exaone-moe", sliding_window_pattern=2),
    exaone("exaone-moe-types", layer_types=[FULL, SLIDING, SLIDING], num_shared_experts=2,
           mlp_layer_types=["dense", "dense", "sparse"], num_key_value_heads=1, n_group=3,
           topk_group=2),
    exaone("exaone-moe-tied", layer_types=[SLIDING, FULL, SLIDING], tie_word_embeddings=True,
           mlp_layer_types=["sparse"] * 3, num_experts_per_tok=3, norm_topk_prob=False,
           routed_scaling_factor=1.5, num_key_value_heads=4, head_dim=32),
    hunyuan_v3("hunyuan-v3"),
    hunyuan_v3("hunyuan-v3-biases", attention_bias=True, num_shared_experts=2, num_experts=8,
               num_experts_per_tok=3, mlp_layer_types=["sparse"] * 3),
    hunyuan_v3("hunyuan-v3-tied", tie_word_embeddings=True, router_scaling_factor=1.3,
               head_dim=32, num_key_value_heads=1, mlp_layer_types=["dense", "dense", "sparse"]),
    afmoe("afmoe", mup_enabled=True, route_scale=2.5, global_attn_every_n_layers=2),
    afmoe("afmoe-types", layer_types=[FULL, SLIDING, SLIDING], attention_bias=True,
          num_shared_experts=2, num_experts=8, num_experts_per_tok=3, num_dense_layers=2),
    afmoe("afmoe-tied", layer_types=[SLIDING, SLIDING, FULL], tie_word_embeddings=True,
          num_key_value_heads=1, num_dense_layers=0, num_experts_per_tok=1, route_scale=1.5,
          mup_enabled=True, sliding_window=5),
    deepseek("solar-open", "solar_open", **GROUPS),
    deepseek("solar-open-biases", "solar_open", attention_bias=True, n_group=1, topk_group=1,
             n_shared_experts=2, norm_topk_prob=False),
    deepseek("solar-open-wide", "solar_open", **{**GROUPS, "head_dim": 32, "n_group": 2,
             "topk_group": 1}, num_key_value_heads=1, tie_word_embeddings=True),
    local("granite-shared", "granitemoeshared", shared_intermediate_size=56,
          embedding_multiplier=3.0, attention_multiplier=0.2, residual_multiplier=0.5,
          logits_scaling=4.0),
    local("granite-shared-bias", "granitemoeshared", shared_intermediate_size=24,
          attention_bias=True, num_experts_per_tok=1, attention_multiplier=0.3,
          tie_word_embeddings=True, intermediate_size=40),
    local("granite-shared-none", "granitemoeshared", shared_intermediate_size=0,
          num_local_experts=7, num_experts_per_tok=3, attention_multiplier=0.25),
    local("granite-moe", "granitemoe", embedding_multiplier=3.0, attention_multiplier=0.2,
          residual_multiplier=0.5, logits_scaling=4.0),
    local("granite-moe-bias", "granitemoe", attention_bias=True, num_local_experts=7,
          embedding_multiplier=0.5, attention_multiplier=0.3, residual_multiplier=2.0,
          logits_scaling=0.25, num_experts_per_tok=3, intermediate_size=40),
    local("granite-moe-tied", "granitemoe", tie_word_embeddings=True, num_experts_per_tok=1,
          attention_multiplier=0.25, intermediate_size=64),
    ernie("ernie"),
    ernie("ernie-bias", use_bias=True, moe_k=2, moe_num_shared_experts=1, moe_num_experts=5,
          moe_layer_start_index=0, moe_layer_end_index=1),
    ernie("ernie-step", moe_layer_interval=2, moe_num_shared_experts=0, moe_intermediate_size=64,
          tie_word_embeddings=False, num_key_value_heads=4),
    hunyuan("hunyuan"),
    hunyuan("hunyuan-per-layer", moe_topk=[1, 2, 3], num_key_value_heads=4, attention_bias=True),
    hunyuan("hunyuan-alpha", num_experts=3, intermediate_size=40, head_dim=32,
            rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "alpha": 50.0,
                             "factor": 1.0}),
    local("minimax-m2", "minimax_m2", head_dim=16, rotary_dim=8),
    local("minimax-m2-whole", "minimax_m2", head_dim=32, num_experts_per_tok=3,
          num_key_value_heads=1, intermediate_size=32),
    local("minimax-m2-many", "minimax_m2", head_dim=16, rotary_dim=4, num_local_experts=16,
          num_experts_per_tok=5, num_key_value_heads=4),
    olmoe("olmoe"),
    olmoe("olmoe-normalised", norm_topk_prob=True, attention_bias=True, num_experts=9,
         num_key_value_heads=4),
    olmoe("olmoe-one", num_experts_per_tok=1, intermediate_size=33,
         tie_word_embeddings=True),
    local("phimoe", "phimoe", attention_bias=True, lm_head_bias=True),
    local("phimoe-window", "phimoe", sliding_window=8, router_jitter_noise=0.3,
          num_local_experts=8, intermediate_size=40),
    local("phimoe-wide", "phimoe", attention_bias=True, router_jitter_noise=0.9,
          num_local_experts=16, num_key_value_heads=4, tie_word_embeddings=True),
    local("gpt-oss", "gpt_oss", head_dim=16, swiglu_limit=1.0, sliding_window=8),
    local("gpt-oss-types", "gpt_oss", head_dim=32, swiglu_limit=0.5, swiglu_alpha=3.0,
          sliding_window=4, layer_types=["full_attention", "full_attention", "sliding_attention"],
          num_experts_per_tok=3, intermediate_size=40, num_key_value_heads=1),
    local("gpt-oss-bare", "gpt_oss", head_dim=8, swiglu_limit=2.0, attention_bias=False,
          sliding_window=64, num_local_experts=8, num_experts_per_tok=1, num_key_value_heads=4),
    llama4("llama4"),
    llama4("llama4-mixed", interleave_moe_layer_step=2, moe_layers=[1], num_local_experts=4,
           num_experts_per_tok=2, use_qk_norm=False, no_rope_layers=[0, 1, 1]),
    llama4("llama4-plain", attn_temperature_tuning=False, attention_bias=True,
           num_key_value_heads=1, attention_chunk_size=16, intermediate_size=40,
           no_rope_layers=[1, 0, 0]),
)  # fmt: skip
