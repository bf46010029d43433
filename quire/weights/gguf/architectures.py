"""What GGUF calls the settings and tensors of each architecture, and what config.json calls them.

An architecture is an entry of ARCHITECTURES; what it shares with others stands above, once.
Source: the key and tensor names of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["ARCHITECTURES", "KEYS", "Architecture"]

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
    "attention.clamp_kqv": "clip_qkv",
    "attention.scale": "attention_multiplier",
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
}

# Keys that say what the tensors or the vocabulary say as well, or nothing about inference.
REDUNDANT = frozenset(
    {
        *("vocab_size", "tensor_data_layout", "attention.value_length", "attention.causal"),
        "rope.scaling.finetuned",
    }
)

# Tensor without its ending → module.  In TENSORS_OF_LAYER both are what follows the layer's name.
TENSORS: Mapping[str, str] = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
TENSORS_OF_LAYER: Mapping[str, str] = {
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


@dataclass(frozen=True, slots=True)
class Architecture:
    """One value of `general.architecture`.

    families: what config.json's `architectures` calls it; a file is read as the first of them.
    keys: as KEYS, where it differs; None: it changes nothing here.  flags: key of config.json → the
    tensor whose presence makes it true.  turned: tensors of a layer whose rows are stored for
    rotations of neighbours, head by head, and the key that says how many heads.
    """

    families: tuple[str, ...]
    keys: Mapping[str, str | None] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)
    turned: Mapping[str, str] = field(default_factory=dict)
    tensors: Mapping[str, str] = field(default_factory=lambda: TENSORS)
    tensors_of_layer: Mapping[str, str] = field(default_factory=lambda: TENSORS_OF_LAYER)


ATTENTION_BIAS = {"attention_bias": "blk.0.attn_q.bias"}

ARCHITECTURES: Mapping[str, Architecture] = {
    # Mistral's models before Mistral 3 are among them.
    "llama": Architecture(
        ("LlamaForCausalLM", "MistralForCausalLM"),
        flags={**ATTENTION_BIAS, "mlp_bias": "blk.0.ffn_gate.bias"},
        turned={"attn_q": "attention.head_count", "attn_k": "attention.head_count_kv"},
    ),
    "qwen2": Architecture(("Qwen2ForCausalLM",)),
    "qwen3": Architecture(("Qwen3ForCausalLM",), flags=ATTENTION_BIAS),
}
