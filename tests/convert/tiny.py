"""A tiny model with the demo's tokenizer, whose activations have a few loud channels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from quire.convert.safetensors_file import write_safetensors
from quire.models.registry import build_spec
from quire.ops.number_formats import bfloat16_bits
from quire.weights.tensor import RawTensor

DEMO = Path(__file__).parents[2] / "quire" / "demo"

CONFIG: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 5120,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
}

EXPERTS: Mapping[str, Any] = {
    "architectures": ["Qwen2MoeForCausalLM"],
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 80,
}
DELTA_NETS: Mapping[str, Any] = {
    **{
        "architectures": ["Qwen3_5ForCausalLM"],
        "layer_types": ["linear_attention", "full_attention"],
    },
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 4, "head_dim": 16},
    **{"linear_key_head_dim": 16, "linear_value_head_dim": 16},
}
MAMBA: Mapping[str, Any] = {
    **{"architectures": ["NemotronHForCausalLM"], "hybrid_override_pattern": "ME*", "n_groups": 2},
    **{"num_hidden_layers": 3, "mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 16},
    **{"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48},
    **{"moe_shared_expert_intermediate_size": 64, "rms_norm_eps": ..., "layer_norm_epsilon": 1e-5},
    **{"dtype": "float32"},
}
PARALLEL_MIXERS: Mapping[str, Any] = {
    "architectures": ["FalconH1ForCausalLM"],
    **{"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16},
    **{"attention_in_multiplier": 1.5, "attention_out_multiplier": 0.7, "key_multiplier": 0.8},
    **{"ssm_in_multiplier": 1.25, "ssm_out_multiplier": 0.6, "mlp_multipliers": [1.5, 0.5]},
    **{"ssm_multipliers": [0.5, 0.75, 1.5, 0.5, 1.25], "dtype": "float32"},
}
LATENT: Mapping[str, Any] = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "q_lora_rank": None,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 5,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "first_k_dense_replace": 1,
    "norm_topk_prob": False,
    "num_key_value_heads": 4,
    "head_dim": ...,
}

SEEING: Mapping[str, Any] = {
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "image_token_id": 5,
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    "vision_config": {
        **{"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2},
        **{"patch_size": 4},
    },
}


def write_tiny(directory: Path, **changes: Any) -> Path:
    """Write the model in its family's layout; norms are uneven, so that inputs of matrices are.

    A change to `...` leaves a key out.
    """
    directory.mkdir()
    config = {key: v for key, v in {**CONFIG, **changes}.items() if v is not ...}
    (directory / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(DEMO / name, directory)
    random = np.random.default_rng(3)
    tensors = {}
    for weight in build_spec(config).weights().values():
        name, shape = weight.places[-1].name, weight.places[-1].shape
        if name in tensors:
            continue
        values = random.standard_normal(shape).astype(np.float32)
        if len(shape) == 1:
            values = np.exp(values) if "norm" in weight.name else values * 0.1
        else:
            values *= np.float32(1.5 * shape[1] ** -0.5)
        tensors[name] = RawTensor(name, "BF16", shape, bfloat16_bits(values))
    write_safetensors(directory / "model.safetensors", list(tensors.values()))
    return directory
