"""Oracle cases of decoders with parallel parts, and of the old ones that they come from."""

from __future__ import annotations

from typing import Any

from quire.models.families.decoder import TINY
from tests.models.case import Case

__all__ = ["CASES", "NEW_WIRING"]

BASE: dict[str, Any] = {**TINY, "pad_token_id": 0}
SLIDING, FULL = "sliding_attention", "full_attention"


def rope(theta: float = 10000.0, partial: float | None = None, **fields: Any) -> dict[str, Any]:
    part = {} if partial is None else {"partial_rotary_factor": partial}
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta, **part, **fields}}


LINEAR = {"rope_type": "linear", "factor": 4.0}

COHERES = (
    Case("cohere", "cohere", BASE),
    Case("cohere-norms-by-head", "cohere", {**BASE, "use_qk_norm": True, "logit_scale": 0.25}),
    Case(
        "cohere-biases-untied",
        "cohere",
        {
            **BASE,
            "head_dim": 32,
            "num_key_value_heads": 1,
            "use_qk_norm": True,
            "attention_bias": True,
            "hidden_act": "gelu",
            "tie_word_embeddings": False,
            **rope(5e5, **LINEAR),
        },
    ),
    Case(
        "cohere2",
        "cohere2",
        {**BASE, "num_hidden_layers": 4, "sliding_window": 8},
        old={"layer_types": ..., "rotary_pct": 1.0, "position_embedding_type": "rope_gptj"},
    ),
    Case(
        "cohere2-types",
        "cohere2",
        {
            **BASE,
            "sliding_window": 12,
            "layer_types": [FULL, SLIDING],
            "num_key_value_heads": 4,
            "attention_bias": True,
            "logit_scale": 0.25,
        },
    ),
    Case(
        "cohere2-pattern",
        "cohere2",
        {
            **BASE,
            "sliding_window": 8,
            "sliding_window_pattern": 2,
            "num_key_value_heads": 1,
            "tie_word_embeddings": False,
            **rope(5e5),
        },
        old={"layer_types": ..., "sliding_window_pattern": ..., "layer_switch": 2},
    ),
)
PHIS = (
    Case("phi", "phi", {**BASE, "num_key_value_heads": 4}),
    Case("phi-norms", "phi", {**BASE, "qk_layernorm": True, **rope(5e5, 0.25)}),
    Case(
        "phi-tied",
        "phi",
        {
            **BASE,
            "num_key_value_heads": 1,
            "hidden_act": "relu",
            "layer_norm_eps": 1e-3,
            "tie_word_embeddings": True,
            **rope(10000.0, 1.0, **LINEAR),
        },
    ),
)
MULTI_HEAD = {key: value for key, value in BASE.items() if key != "num_key_value_heads"}
NEOX_OLD = {"partial_rotary_factor": ..., "rope_theta": ..., "rotary_emb_base": 10000}
NEOXES = (
    Case("gpt-neox", "gpt_neox", MULTI_HEAD, old={**NEOX_OLD, "rotary_pct": 0.25}),
    Case(
        "gpt-neox-serial",
        "gpt_neox",
        {**MULTI_HEAD, "use_parallel_residual": False, "hidden_act": "relu", **rope(10000, 0.5)},
        old={**NEOX_OLD, "rotary_pct": 0.5},
    ),
    Case(
        "gpt-neox-no-bias-tied",
        "gpt_neox",
        {
            **MULTI_HEAD,
            "attention_bias": False,
            "layer_norm_eps": 1e-3,
            "hidden_act": "gelu_new",
            "tie_word_embeddings": True,
            **rope(5e5, 1.0, **LINEAR),
        },
    ),
)
GPT2 = {
    **{"vocab_size": 128, "n_embd": 64, "n_inner": 96, "n_layer": 2, "n_head": 4},
    **{"n_positions": 256, "bos_token_id": 1, "eos_token_id": 2},
}
GPTS = (
    Case("gpt2", "gpt2", GPT2),
    Case(
        "gpt2-scales",
        "gpt2",
        {
            **GPT2,
            "scale_attn_by_inverse_layer_idx": True,
            "n_inner": None,
            "activation_function": "relu",
            "n_layer": 3,
        },
        old={"n_inner": ...},
    ),
    Case(
        "gpt2-untied",
        "gpt2",
        {
            **GPT2,
            "scale_attn_weights": False,
            "tie_word_embeddings": False,
            "layer_norm_epsilon": 1e-3,
            "n_head": 8,
        },
    ),
    Case("starcoder", "gpt_bigcode", GPT2),
    Case("starcoder-mha", "gpt_bigcode", {**GPT2, "multi_query": False, "n_inner": None}),
    Case(
        "starcoder-untied",
        "gpt_bigcode",
        {
            **GPT2,
            "n_head": 8,
            "activation_function": "gelu",
            "tie_word_embeddings": False,
            "layer_norm_epsilon": 1e-3,
        },
    ),
    Case("gpt-j", "gptj", {**GPT2, "rotary_dim": 8}),
    Case("gpt-j-whole", "gptj", {**GPT2, "rotary_dim": 16, "n_inner": None}),
    Case(
        "gpt-j-relu",
        "gptj",
        {
            **GPT2,
            "rotary_dim": 4,
            "n_head": 8,
            "activation_function": "relu",
            "layer_norm_epsilon": 1e-3,
        },
    ),
)
FALCON = {**MULTI_HEAD, "ffn_hidden_size": 96, "intermediate_size": None}
FALCONS = (
    Case("falcon-7b", "falcon", FALCON),
    Case(
        "falcon-40b",
        "falcon",
        {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2, **rope(5e5, **LINEAR)},
    ),
    Case(
        "falcon-11b",
        "falcon",
        {
            **FALCON,
            "new_decoder_architecture": True,
            "num_ln_in_parallel_attn": 1,
            "num_kv_heads": 1,
            "bias": True,
            "tie_word_embeddings": False,
            "activation": "relu",
        },
    ),
    Case(
        "falcon-rw",
        "falcon",
        {
            **FALCON,
            "alibi": True,
            "multi_query": False,
            "parallel_attn": False,
            "bias": True,
            "hidden_size": 96,
            "num_attention_heads": 6,
            "ffn_hidden_size": None,
            "layer_norm_epsilon": 1e-3,
        },
        old={"rope_theta": ..., "rope_scaling": ..., "rotary": False},
        attention="sdpa",  # eager adds the biases of ALiBi twice
    ),
)
BLOOM = {
    **{"vocab_size": 128, "hidden_size": 64, "n_layer": 2, "n_head": 4},
    **{"bos_token_id": 1, "eos_token_id": 2},
}
BLOOMS = (
    Case("bloom", "bloom", BLOOM, old={"hidden_size": ..., "n_embed": 64}),
    Case("bloom-6-heads", "bloom", {**BLOOM, "n_head": 6, "hidden_size": 96, "n_layer": 3}),
    Case(
        "bloom-untied",
        "bloom",
        {**BLOOM, "n_head": 8, "tie_word_embeddings": False, "layer_norm_epsilon": 1e-3},
    ),
)
OPT = {**MULTI_HEAD, "ffn_dim": 96, "word_embed_proj_dim": 64}
OPTS = (
    Case("opt", "opt", OPT, old={"word_embed_proj_dim": ...}),
    Case("opt-no-bias", "opt", {**OPT, "enable_bias": False, "activation_function": "gelu"}),
    Case(
        "opt-bare-norms",
        "opt",
        {
            **OPT,
            "layer_norm_elementwise_affine": False,
            "tie_word_embeddings": False,
            "num_attention_heads": 8,
        },
    ),
)
MPT = {
    **{"vocab_size": 128, "d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 256},
    **{"bos_token_id": 1, "eos_token_id": 2},
}
MPTS = (
    Case("mpt", "mpt", MPT),
    Case("mpt-6-heads", "mpt", {**MPT, "n_heads": 6, "d_model": 96, "layer_norm_epsilon": 1e-3}),
    Case(
        "mpt-scale",
        "mpt",
        {
            **MPT,
            "n_heads": 8,
            "attn_config": {"softmax_scale": 0.2},
            "tie_word_embeddings": False,
        },
    ),
)
NEMOTRONS = (
    Case("nemotron", "nemotron", {**BASE, "head_dim": 16}),
    Case(
        "nemotron-biases",
        "nemotron",
        {
            **BASE,
            "head_dim": 24,
            "attention_bias": True,
            "mlp_bias": True,
            "num_key_value_heads": 4,
            **rope(5e5, 1.0, **LINEAR),
        },
    ),
    Case(
        "nemotron-tied",
        "nemotron",
        {
            **BASE,
            "head_dim": 16,
            "num_key_value_heads": 1,
            "hidden_act": "relu",
            "norm_eps": 1e-3,
            "tie_word_embeddings": True,
        },
    ),
)

CASES: tuple[Case, ...] = (
    *COHERES,
    *PHIS,
    *NEOXES,
    *GPTS,
    *FALCONS,
    *BLOOMS,
    *OPTS,
    *MPTS,
    *NEMOTRONS,
)

NEW_WIRING = tuple(case for case in CASES if case.name in ("cohere", "gpt-neox", "opt", "bloom"))
"""Parallel parts behind one norm and behind two, learned positions, a norm of embeddings."""
