"""Oracle cases of dense decoders that are more than a variation of Llama's block."""

from __future__ import annotations

from typing import Any

from quire.models.families.decoder import TINY
from tests.models.case import Case

__all__ = ["CASES"]

BASE: dict[str, Any] = {**TINY, "pad_token_id": 0}
SLIDING, FULL = "sliding_attention", "full_attention"


def rope(kind: str, theta: float = 10000.0, **fields: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": theta, **fields}


YARN = rope("yarn", factor=4.0, original_max_position_embeddings=64)
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
STEPS = rope(
    "yarn",
    1e6,
    factor=16.0,
    original_max_position_embeddings=16,
    beta_fast=32.0,
    beta_slow=1.0,
    mscale=1.0,
    mscale_all_dim=1.0,
    llama_4_scaling_beta=0.2,
)


def longrope(partial: float = 1.0) -> dict[str, Any]:
    """Factors for 8 pairs; beyond 32 positions the long ones."""
    factors = {
        "short_factor": [1.0 + 0.05 * i for i in range(8)],
        "long_factor": [1.5 + 0.7 * i for i in range(8)],
    }
    section = rope("longrope", **factors, partial_rotary_factor=partial)
    return {"rope_parameters": section, "original_max_position_embeddings": 32}


def gemma(name: str, **fields: Any) -> Case:
    return Case(name, "gemma", {**BASE, "hidden_size": 72, "head_dim": 32, **fields})


def gemma2(name: str, **fields: Any) -> Case:
    """A width whose root is no float; caps low enough to bend scores and logits."""
    small = {"hidden_size": 72, "head_dim": 32, "sliding_window": 8, "query_pre_attn_scalar": 24}
    caps = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 4.0}
    return Case(name, "gemma2", {**BASE, **small, **caps, **fields})


def gemma3(name: str, old: dict[str, Any] | None = None, **fields: Any) -> Case:
    small = {"hidden_size": 72, "head_dim": 32, "sliding_window": 8, "query_pre_attn_scalar": 24}
    types = {"num_hidden_layers": 3, "layer_types": [SLIDING, SLIDING, FULL]}
    old = {"layer_types": ..., "sliding_window_pattern": 3} if old is None else old
    return Case(name, "gemma3_text", {**BASE, **small, **types, **fields}, old=old)


def phi3(name: str, prompt_length: int = 40, **fields: Any) -> Case:
    return Case(name, "phi3", {**BASE, **fields}, prompt_length)


def granite(name: str, kind: str = "granite", **fields: Any) -> Case:
    scales = {
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.3,
        "residual_multiplier": 0.4,
        "logits_scaling": 3.0,
    }
    return Case(name, kind, {**BASE, **scales, **fields})


GEMMAS = (
    gemma("gemma", num_key_value_heads=1),
    gemma("gemma-mha-biases", num_key_value_heads=4, attention_bias=True, head_dim=16),
    gemma("gemma-untied-theta", tie_word_embeddings=False, rope_parameters=rope("default", 5e5)),
    gemma2("gemma2"),
    gemma2("gemma2-uncapped", attn_logit_softcapping=None, final_logit_softcapping=None),
    gemma2("gemma2-types", layer_types=[FULL, SLIDING], num_key_value_heads=4, head_dim=16),
    gemma3("gemma3"),
    gemma3(
        "gemma3-scaled",
        rope_parameters={FULL: rope("linear", 1e6, factor=8.0), SLIDING: rope("default")},
        sliding_window=12,
    ),
    gemma3(
        "gemma3-types",
        old={},
        layer_types=[FULL, SLIDING, FULL],
        num_key_value_heads=4,
        final_logit_softcapping=4.0,
    ),
)
STARCODERS = (
    Case("starcoder2", "starcoder2", {**BASE, "sliding_window": 8}),
    Case("starcoder2-no-bias", "starcoder2", {**BASE, "use_bias": False, "sliding_window": None}),
    Case(
        "starcoder2-relu",
        "starcoder2",
        {**BASE, "hidden_act": "relu", "num_key_value_heads": 4, "tie_word_embeddings": False},
    ),
    Case("starcoder2-gelu", "starcoder2", {**BASE, "hidden_act": "gelu", "norm_epsilon": 1e-4}),
)
PHIS = (
    phi3("phi3"),
    phi3("phi3-window-mha", sliding_window=8, num_key_value_heads=4),
    phi3("phi3-longrope-short", 30, **longrope()),
    phi3("phi3-longrope-long", **longrope()),
    phi3(
        "phi4-mini",
        **{**longrope(0.5), "num_key_value_heads": 1},
        hidden_size=128,
        tie_word_embeddings=True,
    ),
)
GLMS = (
    Case("glm", "glm", {**BASE, "head_dim": 16}),
    Case("glm-no-bias-mqa", "glm", {**BASE, "head_dim": 32, "attention_bias": False}),
    Case("glm-whole", "glm", {**BASE, "head_dim": 16, "partial_rotary_factor": 1.0}),
    Case("glm4", "glm4", {**BASE, "head_dim": 16}),
    Case(
        "glm4-no-bias",
        "glm4",
        {**BASE, "head_dim": 24, "attention_bias": False, "num_key_value_heads": 4},
    ),
    Case(
        "glm4-yarn",
        "glm4",
        {
            **BASE,
            "head_dim": 16,
            "rope_parameters": rope(
                "yarn",
                factor=4.0,
                original_max_position_embeddings=64,
                partial_rotary_factor=0.5,
            ),
        },
    ),
)
OLMOS: tuple[Case, ...] = (
    Case("olmo", "olmo", BASE),
    Case("olmo-biases-tied", "olmo", {**BASE, "attention_bias": True, "tie_word_embeddings": True}),
    Case("olmo-mha-yarn", "olmo", {**BASE, "num_key_value_heads": 4, "rope_parameters": YARN}),
    Case("olmo2", "olmo2", BASE),
    Case("olmo2-mha-biases", "olmo2", {**BASE, "num_key_value_heads": 4, "attention_bias": True}),
    Case(
        "olmo2-mqa-tied", "olmo2", {**BASE, "num_key_value_heads": 1, "tie_word_embeddings": True}
    ),
)
OLMO3 = {**BASE, "num_hidden_layers": 4, "sliding_window": 8}
OLMO3_YARN = {
    FULL: rope("yarn", 5e5, factor=4.0, original_max_position_embeddings=32),
    SLIDING: rope("default", 5e5),
}
OLMOS += (
    Case("olmo3", "olmo3", OLMO3, old={"layer_types": ...}),
    Case("olmo3-yarn", "olmo3", {**OLMO3, "rope_parameters": OLMO3_YARN}),
    Case(
        "olmo3-types",
        "olmo3",
        {**OLMO3, "layer_types": [FULL, SLIDING, SLIDING, FULL], "num_key_value_heads": 1},
    ),
)
GRANITES: tuple[Case, ...] = (
    granite("granite"),
    granite("granite-tied-biases", tie_word_embeddings=True, attention_bias=True, mlp_bias=True),
    granite("granite-mha-yarn", num_key_value_heads=4, rope_parameters=YARN),
)
GRANITE4 = {"shared_intermediate_size": 80, "num_local_experts": 0, "layer_types": [FULL] * 2}
GRANITES += (
    granite("granite4", kind="granitemoehybrid", **GRANITE4, position_embedding_type="rope"),
    granite("granite4-tied", kind="granitemoehybrid", **GRANITE4, tie_word_embeddings=True),
    granite(
        "granite4-biases",
        kind="granitemoehybrid",
        **GRANITE4,
        position_embedding_type="rope",
        attention_bias=True,
        num_key_value_heads=1,
    ),
)
SMOLLMS = (
    Case("smollm3", "smollm3", {**BASE, "no_rope_layers": [1, 0]}),
    Case(
        "smollm3-interval",
        "smollm3",
        {**BASE, "num_hidden_layers": 4, "tie_word_embeddings": False, "attention_bias": True},
        old={"no_rope_layers": ..., "layer_types": ...},
    ),
    Case(
        "smollm3-windows",
        "smollm3",
        {**BASE, "no_rope_layers": [0, 1], "use_sliding_window": True, "sliding_window": 8},
        old={"layer_types": ...},
    ),
)
EXAONES = (
    Case(
        "exaone4",
        "exaone4",
        {**BASE, "sliding_window": 8, "sliding_window_pattern": 2},
        old={"layer_types": ..., "sliding_window_pattern": "LG"},
    ),
    Case("exaone4-small", "exaone4", {**BASE, "sliding_window": None, "layer_types": [FULL] * 2}),
    Case(
        "exaone4-llama3",
        "exaone4",
        {
            **BASE,
            "sliding_window": 8,
            "layer_types": [FULL, SLIDING],
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
            "rope_parameters": rope("llama3", 5e5, **LLAMA3),
        },
    ),
)
OTHERS = (
    Case("arcee", "arcee", {**BASE, "head_dim": 16}),
    Case(
        "arcee-biases", "arcee", {**BASE, "head_dim": 24, "attention_bias": True, "mlp_bias": True}
    ),
    Case(
        "arcee-yarn-tied",
        "arcee",
        {**BASE, "head_dim": 16, "tie_word_embeddings": True, "rope_parameters": YARN},
    ),
    Case("seed-oss", "seed_oss", {**BASE, "head_dim": 24}),
    Case("seed-oss-out-bias", "seed_oss", {**BASE, "head_dim": 16, "attention_out_bias": True}),
    Case(
        "seed-oss-mlp-bias",
        "seed_oss",
        {**BASE, "head_dim": 16, "attention_bias": False, "mlp_bias": True},
    ),
    Case("hunyuan", "hunyuan_v1_dense", {**BASE, "head_dim": 16}),
    Case(
        "hunyuan-alpha-tied",
        "hunyuan_v1_dense",
        {
            **BASE,
            "head_dim": 24,
            "tie_word_embeddings": True,
            "rope_parameters": rope("dynamic", factor=1.0, alpha=1000.0),
        },
    ),
    Case(
        "hunyuan-biases",
        "hunyuan_v1_dense",
        {**BASE, "head_dim": 16, "attention_bias": True, "num_key_value_heads": 4},
    ),
    Case("ernie", "ernie4_5", {**BASE, "head_dim": 16}),
    Case("ernie-biases", "ernie4_5", {**BASE, "head_dim": 24, "use_bias": True}),
    Case(
        "ernie-mqa-untied",
        "ernie4_5",
        {**BASE, "head_dim": 16, "tie_word_embeddings": False, "num_key_value_heads": 1},
    ),
    Case(
        "ministral",
        "ministral",
        {**BASE, "head_dim": 16, "sliding_window": 8, "layer_types": [SLIDING, FULL]},
    ),
    Case(
        "ministral-all",
        "ministral",
        {**BASE, "head_dim": 24, "sliding_window": 8, "num_key_value_heads": 1},
        old={"layer_types": ...},
    ),
    Case(
        "ministral-full",
        "ministral",
        {
            **BASE,
            "head_dim": 16,
            "sliding_window": 8,
            "layer_types": [FULL, FULL],
            "tie_word_embeddings": True,
        },
    ),
    Case("ministral3", "ministral3", {**BASE, "head_dim": 16, "rope_parameters": STEPS}),
    Case(
        "ministral3-window",
        "ministral3",
        {
            **BASE,
            "head_dim": 24,
            "sliding_window": 24,
            "rope_parameters": {**STEPS, "llama_4_scaling_beta": 0.4},
        },
    ),
    Case(
        "ministral3-short",
        "ministral3",
        {
            **BASE,
            "head_dim": 16,
            "num_key_value_heads": 4,
            "tie_word_embeddings": True,
            "rope_parameters": {**STEPS, "original_max_position_embeddings": 64},
        },
    ),
)
STABLE = {**BASE, "num_key_value_heads": 2}
QUARTER = rope("default", partial_rotary_factor=0.25)
HALF = rope("default", partial_rotary_factor=0.5)
FURTHER_NORMS = (
    Case("stablelm", "stablelm", {**STABLE, "rope_parameters": QUARTER}),
    Case(
        "stablelm-biases",
        "stablelm",
        {**BASE, "use_qkv_bias": True, "num_key_value_heads": 4, "rope_parameters": HALF},
    ),
    Case(
        "stablelm-tied",
        "stablelm",
        {
            **BASE,
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
            "layer_norm_eps": 1e-3,
            "hidden_act": "gelu",
            "rope_parameters": rope("default", 5e5, partial_rotary_factor=1.0),
        },
    ),
    Case("stablelm-12b", "stablelm", {**STABLE, "qk_layernorm": True,
                                     "use_parallel_residual": True, "rope_parameters": QUARTER}),
    Case("stablelm-norms", "stablelm", {**STABLE, "qk_layernorm": True, "use_qkv_bias": True,
                                       "num_key_value_heads": 1, "rope_parameters": HALF}),
    Case("helium", "helium", {**BASE, "head_dim": 16}),
    Case("helium-biases", "helium", {
        **BASE, "head_dim": 16, "attention_bias": True, "mlp_bias": True, "rms_norm_eps": 1e-3,
        "num_key_value_heads": 1, "rope_parameters": rope("default", 5e5),
    }),
    Case("helium-tied", "helium", {
        **BASE, "head_dim": 16, "num_key_value_heads": 4, "tie_word_embeddings": True,
        "hidden_act": "gelu", "rope_parameters": rope("llama3", 1e4, **LLAMA3),
    }),
    Case("jais2", "jais2", {**BASE, "head_dim": 16}),
    Case(
        "jais2-no-bias",
        "jais2",
        {**BASE, "head_dim": 24, "attention_bias": False, "num_key_value_heads": 4},
    ),
    Case(
        "jais2-tied",
        "jais2",
        {
            **BASE,
            "head_dim": 16,
            "mlp_bias": False,
            "layer_norm_eps": 1e-3,
            "tie_word_embeddings": True,
            "rope_parameters": rope("llama3", 5e5, **LLAMA3),
        },
    ),
    granite("hyperclovax", kind="hyperclovax"),
    granite(
        "hyperclovax-no-post-norm", kind="hyperclovax", use_post_norm=False, attention_bias=True,
        tie_word_embeddings=True,
    ),
    granite(
        "hyperclovax-scale", kind="hyperclovax", attention_multiplier=None, head_dim=32,
        num_key_value_heads=1, mlp_bias=True, rope_parameters=YARN,
    ),
)  # fmt: skip

CASES: tuple[Case, ...] = (
    *GEMMAS,
    *STARCODERS,
    *PHIS,
    *GLMS,
    *OLMOS,
    *GRANITES,
    *SMOLLMS,
    *EXAONES,
    *OTHERS,
    *FURTHER_NORMS,
)
