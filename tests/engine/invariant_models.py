"""The models whose requests must yield the same bits in any circumstances, and those bits."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from tests.engine.driving import (
    Answer,
    Bench,
    Job,
    random_jobs,
    random_model,
)

MODELS: Mapping[str, dict[str, Any]] = {
    "llama": {"architecture": "LlamaForCausalLM"},
    "window": {"architecture": "MistralForCausalLM", "sliding_window": 8},
    "norms, bfloat16": {"architecture": "Qwen3ForCausalLM", "dtype": "bfloat16"},
    "odd sizes, float16": {
        "architecture": "Qwen2ForCausalLM",
        "dtype": "float16",
        "vocab_size": 131,
        "hidden_size": 84,
        "intermediate_size": 77,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 14,
    },
    "int8 cache": {"architecture": "LlamaForCausalLM"},
    "fp8 cache": {"architecture": "LlamaForCausalLM", "num_hidden_layers": 1},
    "int4 cache, odd sizes": {
        "architecture": "Qwen3ForCausalLM",
        "head_dim": 20,
        "num_hidden_layers": 1,
    },
    "int8 cache, window, odd sizes": {
        "architecture": "MistralForCausalLM",
        "sliding_window": 40,
        "hidden_size": 84,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 14,
    },
    "latent": {"architecture": "DeepseekV2ForCausalLM"},
    "latent, int8 cache": {
        "architecture": "MiniCPM3ForCausalLM",
        "hidden_size": 84,
        "num_attention_heads": 3,
        "q_lora_rank": None,
        "kv_lora_rank": 20,
        "qk_rope_head_dim": 6,
        "qk_nope_head_dim": 9,
    },
    "recurrent": {"architecture": "Qwen3NextForCausalLM"},
    "dynamic rope": {
        "architecture": "LlamaForCausalLM",
        "max_position_embeddings": 24,
        "rope_scaling": {"type": "dynamic", "factor": 4.0},
    },
}
INTEGER_MODELS: Mapping[str, dict[str, Any]] = {
    "int4": {
        "architecture": "LlamaForCausalLM",
        "quantization": "int4",
        "tie_word_embeddings": True,
        "intermediate_size": 77,
        "num_hidden_layers": 1,
    },
    "latent, int4": {
        "architecture": "DeepseekV3ForCausalLM",
        "quantization": "int4",
        "cuts_latents": True,
        "v_head_dim": 16,
        "num_hidden_layers": 1,
        "first_k_dense_replace": 1,
    },
    "int8": {
        "architecture": "Qwen2ForCausalLM",
        "quantization": "int8",
        "vocab_size": 131,
        "intermediate_size": 200,
        "num_hidden_layers": 1,
    },
}
KV_FORMAT = {
    "latent, int8 cache": "int8",
    "latent, int4": "bfloat16",
    "int8 cache": "int8",
    "int8 cache, window, odd sizes": "int8",
    "fp8 cache": "fp8",
    "int4 cache, odd sizes": "int4",
    "wide, int8 cache": "int8",
    "norms, bfloat16": "bfloat16",
    "odd sizes, float16": "float16",
    "wide window, bfloat16": "bfloat16",
}


# Long enough for three chunks of keys, wide enough for three blocks of columns.
WIDE = {
    "hidden_size": 528,
    "intermediate_size": 1100,
    "num_hidden_layers": 1,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 1300,
    "max_position_embeddings": 1024,
}
WIDE_MODELS: Mapping[str, dict[str, Any]] = {
    "wide": {"architecture": "LlamaForCausalLM", "head_dim": 80, **WIDE},
    "wide window, bfloat16": {
        "architecture": "MistralForCausalLM",
        "dtype": "bfloat16",
        "sliding_window": 150,
        **WIDE,
    },
    "wide, int8 cache": {"architecture": "LlamaForCausalLM", "head_dim": 80, **WIDE},
    "wide, float16": {"architecture": "Qwen3ForCausalLM", "dtype": "float16", **WIDE},
}


@functools.cache
def bench(name: str, isa: str) -> Bench:
    loaded = random_model(**{**MODELS, **INTEGER_MODELS, **WIDE_MODELS}[name])
    return Bench(loaded, isa, KV_FORMAT.get(name, "float32"))


@functools.cache
def jobs_and_answers(name: str, isa: str, count: int) -> tuple[list[Job], list[Answer]]:
    """Random jobs, and what each yields alone."""
    sizes = {"vocab_size": 1300, "longest": 300} if name in WIDE_MODELS else {}
    jobs = random_jobs(seed=7, count=24, **sizes)
    if name in WIDE_MODELS:
        jobs.sort(key=lambda job: -len(job.prompt))
    jobs = jobs[:count]
    return jobs, [bench(name, isa).alone(job) for job in jobs]
