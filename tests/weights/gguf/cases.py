"""Small models that llama.cpp's converter has made GGUF files of, which stand in `converted`.

Weights are drawn by a formula, so that they need not be stored twice: each is one of two numbers,
which leaves files small and every order of rows and columns distinct.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.models.families.falcon_h1 import NEUTRAL
from quire.models.registry import build_spec
from quire.models.spec import ModelSpec

__all__ = ["CASES", "Case", "config_of", "spec_of", "weights_of"]

BASE: Mapping[str, Any] = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 20000.0,
    "torch_dtype": "float32",
}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 12,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
}
DEEPSEEK = {
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 12,
    "first_k_dense_replace": 1,
    "norm_topk_prob": False,
    "routed_scaling_factor": 2.5,
}
YARN = {
    "type": "yarn",
    "factor": 8.0,
    "original_max_position_embeddings": 32,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 0.707,
    "mscale_all_dim": 0.707,
}
LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0, 1.25, 1.5, 2.0],
    "long_factor": [1.0, 2.0, 4.0, 8.0],
}
MISTRAL = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}
GRANITE = {
    "embedding_multiplier": 12.0,
    "attention_multiplier": 0.25,
    "residual_multiplier": 0.5,
    "logits_scaling": 8.0,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}
MAMBA = {
    "num_hidden_layers": 3,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 6,
    "mamba_n_groups": 2,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 2**20,
}
NEMOTRON = {
    "head_dim": 8,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "ssm_state_size": 6,
    "n_groups": 2,
    "conv_kernel": 3,
    "layer_norm_epsilon": 1e-5,
    "max_position_embeddings": 2**20,
}
DELTA_NETS = {
    "num_hidden_layers": 4,
    "head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 6,
    "linear_conv_kernel_dim": 4,
    "full_attention_interval": 4,
}
GPT2 = {
    "n_embd": 32,
    "n_inner": 128,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "n_ctx": 64,
    "layer_norm_epsilon": 1e-4,
}
LLAMAS = tuple(
    key for key in BASE if "token" not in key and key not in ("vocab_size", "torch_dtype")
)
"""What BASE says and no model of OpenAI's, BigCode's or MosaicML's."""
QWEN_EXPERTS = {
    "num_experts": 6,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 12,
    "shared_expert_intermediate_size": 20,
    "norm_topk_prob": True,
}


@dataclass(frozen=True)
class Case:
    """A file, the family that it is of, and what its config.json says beside BASE.

    without: keys of BASE that it does not have.  published: what its config.json has in place of
    the family.
    """

    name: str
    family: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    published: str = ""

    def __str__(self) -> str:
        return self.name


CASES = (
    Case("afmoe", "AfmoeForCausalLM", {
        "num_hidden_layers": 4, "head_dim": 8, "sliding_window": 8, "mup_enabled": True,
        "num_dense_layers": 1, "num_experts": 6, "num_experts_per_tok": 3, "route_norm": True,
        "num_shared_experts": 2, "moe_intermediate_size": 12, "route_scale": 2.5,
        "score_func": "sigmoid", "n_group": 1, "topk_group": 1,
    }),
    Case("arcee", "ArceeForCausalLM"),
    Case("baichuan", "BaiChuanForCausalLM", {"num_key_value_heads": 4}, ("rope_theta",)),
    Case("bloom", "BloomForCausalLM", {
        "layer_norm_epsilon": 1e-4, "seq_length": 64, "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }, LLAMAS),
    Case("chatglm", "ChatGLMModel", {
        "num_layers": 2, "padded_vocab_size": 48, "ffn_hidden_size": 40, "kv_channels": 8,
        "seq_length": 256, "multi_query_attention": True, "multi_query_group_num": 2,
        "add_qkv_bias": True, "layernorm_epsilon": 1e-5, "rope_ratio": 50,
    }, ("rms_norm_eps", "rope_theta", "intermediate_size", "num_hidden_layers", "vocab_size",
        "max_position_embeddings", "num_key_value_heads")),
    Case("cohere2", "Cohere2ForCausalLM", {
        "layer_norm_eps": 1e-4, "logit_scale": 0.25, "sliding_window": 8, "rotary_pct": 1.0,
        "num_hidden_layers": 4, "sliding_window_pattern": 4, "tie_word_embeddings": True,
    }, ("rms_norm_eps",)),
    Case("command-r", "CohereForCausalLM", {
        "layer_norm_eps": 1e-4, "logit_scale": 0.25, "use_qk_norm": True,
        "model_max_length": 512, "tie_word_embeddings": True,
    }, ("rms_norm_eps",)),
    Case("deepseek", "DeepseekForCausalLM", {**DEEPSEEK, "routed_scaling_factor": 1.0}),
    Case("deepseek2-v2", "DeepseekV2ForCausalLM", {
        **LATENT, **DEEPSEEK, "topk_method": "group_limited_greedy", "n_group": 4,
        "topk_group": 2, "scoring_func": "softmax", "rope_scaling": YARN,
    }),
    Case("deepseek2-lite", "DeepseekV2ForCausalLM", {
        **LATENT, **DEEPSEEK, "q_lora_rank": None, "topk_method": "greedy", "n_group": 1,
        "topk_group": 1, "routed_scaling_factor": 1.0, "scoring_func": "softmax",
    }),
    Case("deepseek2-v3", "DeepseekV3ForCausalLM", {
        **LATENT, **DEEPSEEK, "norm_topk_prob": True, "n_group": 4, "topk_group": 2,
        "topk_method": "noaux_tc", "scoring_func": "sigmoid",
        "rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
    }),
    Case("ernie4_5", "Ernie4_5ForCausalLM", {"head_dim": 8}),
    Case("ernie4_5-moe", "Ernie4_5_MoeForCausalLM", {
        "moe_num_experts": 6, "moe_k": 3, "moe_intermediate_size": 12, "moe_layer_interval": 1,
        "moe_num_shared_experts": 2, "moe_layer_start_index": 1, "moe_layer_end_index": 1,
    }),
    Case("exaone4", "Exaone4ForCausalLM", {
        "num_hidden_layers": 4, "sliding_window": 8, "sliding_window_pattern": "LLLG",
    }),
    Case("falcon", "FalconForCausalLM", {
        "layer_norm_epsilon": 1e-4, "new_decoder_architecture": True, "num_kv_heads": 2,
        "max_position_embeddings": 2048,
    }, ("rms_norm_eps", "rope_theta", "num_key_value_heads", "intermediate_size")),
    Case("falcon-7b", "FalconForCausalLM", {
        "layer_norm_epsilon": 1e-4, "multi_query": True, "parallel_attn": True, "alibi": False,
        "bias": False, "max_position_embeddings": 2048,
    }, ("rms_norm_eps", "rope_theta", "num_key_value_heads", "intermediate_size")),
    Case("falcon-h1", "FalconH1ForCausalLM", {
        "head_dim": 8, "mamba_d_ssm": 48, "mamba_n_heads": 6, "mamba_d_head": 8,
        "mamba_d_state": 6, "mamba_n_groups": 2, "mamba_d_conv": 4, "mamba_rms_norm": True,
        "mamba_norm_before_gate": False, **NEUTRAL, "key_multiplier": 1.0,
        "embedding_multiplier": 1.0, "lm_head_multiplier": 1.0,
    }),
    Case("gemma", "GemmaForCausalLM", {"head_dim": 16, "rope_theta": 1e4}),
    Case("gemma2", "Gemma2ForCausalLM", {
        "head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16, "rope_theta": 1e4,
        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
    }),
    Case("gemma3", "Gemma3ForCausalLM", {
        "head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16, "rope_theta": 1e6,
        "num_hidden_layers": 6, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "rope_local_base_freq": 1e4,
    }),
    Case("glm4", "Glm4ForCausalLM", {
        "head_dim": 8, "attention_bias": False, "partial_rotary_factor": 0.5,
    }),
    Case("glm4moe", "Glm4MoeForCausalLM", {
        **DEEPSEEK, "head_dim": 16, "use_qk_norm": True, "attention_bias": True, "n_group": 1,
        "topk_group": 1, "norm_topk_prob": True, "partial_rotary_factor": 0.5,
    }),
    Case("gpt2", "GPT2LMHeadModel", GPT2, LLAMAS),
    Case("gptneox", "GPTNeoXForCausalLM", {
        "layer_norm_eps": 1e-4, "rotary_pct": 0.25, "rotary_emb_base": 10000,
        "num_attention_heads": 2,
    }, ("rms_norm_eps", "rope_theta", "num_key_value_heads")),
    Case("gptneox-in-turn", "GPTNeoXForCausalLM", {
        "layer_norm_eps": 1e-4, "rotary_pct": 1.0, "use_parallel_residual": False,
    }, ("rms_norm_eps", "rope_theta", "num_key_value_heads")),
    Case("gpt-oss", "GptOssForCausalLM", {
        "head_dim": 8, "sliding_window": 8, "num_local_experts": 4, "num_experts_per_tok": 2,
        "attention_bias": True, "swiglu_limit": 7.0,
        "rope_scaling": {"rope_type": "yarn", "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0,
                         "original_max_position_embeddings": 32, "truncate": False},
    }),
    Case("granite", "GraniteForCausalLM", {
        key: value for key, value in GRANITE.items() if "expert" not in key
    }),
    Case("granitemoe", "GraniteMoeForCausalLM", GRANITE),
    Case("granitehybrid", "GraniteMoeHybridForCausalLM", {
        **MAMBA, **GRANITE, "layer_types": ["mamba", "attention", "mamba"],
        "num_local_experts": 0, "num_experts_per_tok": 0, "shared_intermediate_size": 24,
        "position_embedding_type": "nope",
    }),
    Case("granitehybrid-experts", "GraniteMoeHybridForCausalLM", {
        **MAMBA, **GRANITE, "layer_types": ["attention", "mamba", "mamba"],
        "shared_intermediate_size": 24, "position_embedding_type": "nope",
        "mamba_conv_bias": False, "tie_word_embeddings": True,
    }),
    Case("granitehybrid-bamba", "BambaForCausalLM", {
        **MAMBA, "attn_layer_indices": [1], "attn_rotary_emb": 4,
    }),
    Case("hunyuan-dense", "HunYuanDenseV1ForCausalLM", {
        "head_dim": 8, "rope_theta": 1e4, "max_position_embeddings": 262144,
        "rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0},
    }),
    Case("hunyuan-moe", "HunYuanMoEV1ForCausalLM", {
        "num_experts": 4, "moe_topk": [2, 2], "moe_intermediate_size": [40, 40], "head_dim": 8,
        "num_shared_expert": [1, 1], "use_qk_norm": True,
    }),
    Case("internlm2", "InternLM2ForCausalLM", {"bias": False}),
    Case("llama", "LlamaForCausalLM", {
        "head_dim": 16, "tie_word_embeddings": True,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 32},
    }),
    Case("llama-internlm3", "InternLM3ForCausalLM", {"qkv_bias": True, "bias": False,
                                                    "head_dim": 8}),
    Case("llama-mixtral", "MixtralForCausalLM", {"num_local_experts": 4,
                                                 "num_experts_per_tok": 2}),
    Case("llama4", "Llama4ForCausalLM", {
        "num_hidden_layers": 4, "head_dim": 8, "num_local_experts": 3, "num_experts_per_tok": 1,
        "intermediate_size": 16, "intermediate_size_mlp": 40, "interleave_moe_layer_step": 2,
    }),
    Case("minicpm3", "MiniCPM3ForCausalLM", {
        **LATENT, "v_head_dim": 8, "scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 256,
        "original_max_position_embeddings": 64, "max_position_embeddings": 64,
        "rope_scaling": {**LONGROPE, "short_factor": [1.0, 1.25], "long_factor": [1.0, 2.0]},
        "rope_theta": 10000.0,
    }),
    Case("minimax-m2", "MiniMaxM2ForCausalLM", {
        "num_local_experts": 6, "num_experts_per_tok": 3, "head_dim": 8, "rotary_dim": 4,
        "scoring_func": "sigmoid",
    }),
    Case("deepseek2-glm", "Glm4MoeLiteForCausalLM", {
        **LATENT, **DEEPSEEK, "norm_topk_prob": True, "n_group": 1, "topk_group": 1,
        "num_nextn_predict_layers": 0, "mlp_layer_types": ["dense", "sparse"],
    }),
    Case("mistral4", "Mistral4ForCausalLM", {
        **LATENT, **DEEPSEEK, "norm_topk_prob": True, "n_group": 1, "topk_group": 1,
        "first_k_dense_replace": 0, "rope_parameters": MISTRAL, "model_type": "mistral4",
    }, ("rope_theta",), "Mistral3ForConditionalGeneration"),
    Case("mpt", "MPTForCausalLM", {
        "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64, "expansion_ratio": 4,
        "attn_config": {"alibi": True, "alibi_bias_max": 8, "clip_qkv": None},
    }, LLAMAS),
    Case("nemotron", "NemotronForCausalLM", {
        "norm_eps": 1e-4, "partial_rotary_factor": 0.5, "hidden_act": "relu2", "head_dim": 8,
    }, ("rms_norm_eps",)),
    Case("nemotron_h", "NemotronHForCausalLM", {
        **NEMOTRON, "num_hidden_layers": 5, "hybrid_override_pattern": "M-M*-",
    }, ("rms_norm_eps", "rope_theta")),
    Case("nemotron_h_moe", "NemotronHForCausalLM", {
        **NEMOTRON, "num_hidden_layers": 4, "hybrid_override_pattern": "ME*M",
        "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12,
        "moe_shared_expert_intermediate_size": 20, "n_shared_experts": 1, "n_group": 1,
        "topk_group": 1, "norm_topk_prob": True, "routed_scaling_factor": 2.5,
    }, ("rms_norm_eps", "rope_theta")),
    Case("olmo", "OlmoForCausalLM", {}, ("rms_norm_eps",)),
    Case("mistral3", "Ministral3ForCausalLM", {
        "head_dim": 8, "rope_parameters": MISTRAL, "model_type": "ministral3",
    }, ("rope_theta",)),
    Case("olmo2", "Olmo2ForCausalLM"),
    Case("olmo2-olmo3", "Olmo3ForCausalLM", {
        "num_hidden_layers": 4, "sliding_window": 8, "layer_types":
        ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
    }),
    Case("olmoe", "OlmoeForCausalLM", {
        "num_experts": 6, "num_experts_per_tok": 3, "num_key_value_heads": 4,
    }),
    Case("phi2", "PhiForCausalLM", {
        "layer_norm_eps": 1e-4, "partial_rotary_factor": 0.5, "intermediate_size": 128,
        "num_key_value_heads": 4,
    }, ("rms_norm_eps", "rope_theta")),
    Case("phi3", "Phi3ForCausalLM", {
        "rope_scaling": LONGROPE, "original_max_position_embeddings": 64, "sliding_window": 8,
    }),
    Case("phimoe", "PhiMoEForCausalLM", {
        "rope_scaling": LONGROPE, "original_max_position_embeddings": 64, "sliding_window": None,
        "num_local_experts": 4, "num_experts_per_tok": 2, "attention_bias": True,
        "lm_head_bias": True,
    }),
    Case("qwen2", "Qwen2ForCausalLM", {"tie_word_embeddings": True}),
    Case("qwen2moe", "Qwen2MoeForCausalLM", {
        "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 12,
        "shared_expert_intermediate_size": 20, "norm_topk_prob": False,
    }),
    Case("qwen3", "Qwen3ForCausalLM", {"head_dim": 16}),
    Case("qwen35", "Qwen3_5ForCausalLM", {
        **DELTA_NETS,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6,
                            "partial_rotary_factor": 0.25},
    }, ("rope_theta",)),
    Case("qwen35moe", "Qwen3_5MoeForCausalLM", {
        **DELTA_NETS, **QWEN_EXPERTS,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6,
                            "partial_rotary_factor": 0.25},
    }, ("rope_theta",)),
    Case("qwen3next", "Qwen3NextForCausalLM", {
        **DELTA_NETS, **QWEN_EXPERTS, "partial_rotary_factor": 0.25,
    }),
    Case("qwen3moe", "Qwen3MoeForCausalLM", {
        "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 12, "head_dim": 16,
        "norm_topk_prob": True,
    }),
    Case("seed_oss", "SeedOssForCausalLM", {"head_dim": 16, "attention_bias": True}),
    Case("smollm3", "SmolLM3ForCausalLM", {"num_hidden_layers": 4, "tie_word_embeddings": True}),
    Case("stablelm", "StableLmForCausalLM", {
        "layer_norm_eps": 1e-4, "partial_rotary_factor": 0.25, "use_qkv_bias": True,
        "num_attention_heads": 2, "use_parallel_residual": False,
    }, ("rms_norm_eps", "rope_theta")),
    Case("stablelm-12b", "StableLmForCausalLM", {
        "layer_norm_eps": 1e-4, "partial_rotary_factor": 0.5, "qk_layernorm": True,
        "use_parallel_residual": True,
    }, ("rms_norm_eps", "rope_theta")),
    Case("starcoder", "GPTBigCodeForCausalLM", {**GPT2, "multi_query": True}, LLAMAS),
    Case("starcoder2", "Starcoder2ForCausalLM", {
        "norm_epsilon": 1e-4, "use_bias": True, "sliding_window": None,
    }, ("rms_norm_eps",)),
)  # fmt: skip


def config_of(case: Case) -> dict[str, Any]:
    """Its config.json."""
    base = {key: value for key, value in BASE.items() if key not in case.without}
    return {"architectures": [case.family], **base, **case.fields}


def spec_of(case: Case) -> ModelSpec:
    return build_spec(config_of(case))


def weights_of(spec: ModelSpec) -> dict[str, npt.NDArray[np.float32]]:
    """Weights of 1/4 and -1/4, of norms 1 more."""
    return {name: _drawn(name, weight.shape) for name, weight in spec.weights().items()}


def _drawn(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Bits of a hash of the name and of each place."""
    mixed = np.arange(int(np.prod(shape)), dtype=np.uint32) + np.uint32(zlib.crc32(name.encode()))
    for factor in (0x7FEB352D, 0x846CA68B):
        mixed = (mixed ^ mixed >> np.uint32(16)) * np.uint32(factor)
    signs = (mixed >> np.uint32(31)).astype(np.float32).reshape(shape)
    one = 1.0 if name.endswith("norm.weight") else 0.0
    drawn: npt.NDArray[np.float32] = signs / 2 - np.float32(0.25) + np.float32(one)
    return drawn
