"""The architectures of GGUF files: what each shares with config.json, and where it differs.

An architecture is an entry of ARCHITECTURES; what it shares with others stands in `names`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from quire.weights.gguf import names, rules
from quire.weights.gguf.names import ATTENTION_BIAS, LATENT_KEYS, TURNED, Names

__all__ = ["ARCHITECTURES", "Architecture"]

Rule: TypeAlias = Callable[[dict[str, Any], Collection[str]], None]


@dataclass(frozen=True, slots=True)
class Architecture:
    """One value of `general.architecture`.

    families: what config.json's `architectures` calls it; a file is read as the first of them, if
    no rule says otherwise.  keys: as KEYS, where it differs; None: it changes nothing here.  given:
    what config.json says and the metadata leave out.  flags: key of config.json → tensors of which
    one makes it true.  turned: tensors of a layer whose rows are stored for rotations of
    neighbours, head by head, and the key that says how many heads.  layer: names of a layer's
    tensors beside the usual ones.  norm_offset: what is added to the weights of norms.  rules: see
    quire.weights.gguf.rules.
    """

    families: tuple[str, ...]
    keys: Mapping[str, str | None] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    turned: Mapping[str, str] = field(default_factory=dict)
    layer: Names = field(default_factory=dict)
    norm_offset: float = 0.0
    rules: tuple[Rule, ...] = ()

    @property
    def tensors(self) -> Mapping[str, str]:
        """Tensor outside of layers → module."""
        return names.TENSORS

    @property
    def tensors_of_layer(self) -> Names:
        """Tensor of a layer → module."""
        return {**names.TENSORS_OF_LAYER, **self.layer}


SHARED_MIXTURE: Names = {**names.EXPERTS, **names.SHARED_EXPERTS}
DEEPSEEK_KEYS = {"expert_count": "n_routed_experts"}
MATRICES = ("gate", "up", "down")
GRANITE_KEYS = {"logit_scale": "logits_scaling"}
POST_NORMS: Names = {
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
ARCHITECTURES: Mapping[str, Architecture] = {
    # Mistral's models before Mistral 3 are among them.
    "llama": Architecture(
        ("LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM", "InternLM3ForCausalLM"),
        flags={**ATTENTION_BIAS, "mlp_bias": ("blk.0.ffn_gate.bias",)},
        turned=TURNED,
        layer=names.SPARSE_BLOCK,
        rules=(rules.llama_experts,),
    ),
    "arcee": Architecture(("ArceeForCausalLM",), flags=ATTENTION_BIAS, turned=TURNED),
    "baichuan": Architecture(
        ("BaiChuanForCausalLM", "BaichuanForCausalLM"), turned=TURNED, rules=(rules.alibi_in_13b,)
    ),
    "chatglm": Architecture(("GlmForCausalLM",), flags=ATTENTION_BIAS, layer=names.FUSED),
    "deepseek": Architecture(
        ("DeepseekForCausalLM",),
        DEEPSEEK_KEYS,
        {"norm_topk_prob": False},
        turned=TURNED,
        layer=SHARED_MIXTURE,
    ),
    "deepseek2": Architecture(
        ("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"),
        {**DEEPSEEK_KEYS, **LATENT_KEYS},
        {"norm_topk_prob": False},
        layer={**SHARED_MIXTURE, **names.LATENT},
        rules=(rules.deepseek2,),
    ),
    "ernie4_5": Architecture(
        ("Ernie4_5ForCausalLM",), flags={"use_bias": ATTENTION_BIAS["attention_bias"]}
    ),
    "ernie4_5-moe": Architecture(
        ("Ernie4_5_MoeForCausalLM",),
        {
            "expert_count": "moe_num_experts",
            "expert_used_count": "moe_k",
            "expert_shared_count": "moe_num_shared_experts",
            "leading_dense_block_count": "moe_layer_start_index",
            "interleave_moe_layer_step": "moe_layer_interval",
        },
        layer={**SHARED_MIXTURE, "exp_probs_b.bias": "mlp.moe_statics.e_score_correction_bias"},
    ),
    "exaone4": Architecture(
        ("Exaone4ForCausalLM",), layer=POST_NORMS, rules=(rules.window_pattern,)
    ),
    "gemma": Architecture(("GemmaForCausalLM",), norm_offset=1.0),
    "gemma2": Architecture(
        ("Gemma2ForCausalLM",),
        layer=names.SANDWICH,
        norm_offset=1.0,
        rules=(rules.gemma_scale, rules.window_pattern),
    ),
    "gemma3": Architecture(
        ("Gemma3ForCausalLM",),
        {"rope.freq_base_swa": "rope_local_base_freq"},
        {"rope_theta": 1e6},
        layer=names.SANDWICH,
        norm_offset=1.0,
        rules=(rules.gemma_scale, rules.window_pattern),
    ),
    "glm4": Architecture(
        ("Glm4ForCausalLM",),
        flags=ATTENTION_BIAS,
        layer={
            **names.FUSED,
            "post_attention_norm": "post_self_attn_layernorm",
            "post_ffw_norm": "post_mlp_layernorm",
        },
    ),
    "glm4moe": Architecture(
        ("Glm4MoeForCausalLM",),
        DEEPSEEK_KEYS,
        flags={**ATTENTION_BIAS, "use_qk_norm": ("blk.0.attn_q_norm.weight",)},
        layer={**SHARED_MIXTURE, "post_attention_norm": "post_attention_layernorm"},
    ),
    "gpt-oss": Architecture(
        ("GptOssForCausalLM",),
        {"feed_forward_length": None, "expert_feed_forward_length": "intermediate_size"},
        layer={
            **names.EXPERTS,
            "ffn_gate_inp": "mlp.router",
            "attn_sinks.weight": "self_attn.sinks",
            "post_attention_norm": "post_attention_layernorm",
        },
        rules=(rules.window_pattern, rules.exact_ramp),
    ),
    "granite": Architecture(
        ("GraniteForCausalLM",), GRANITE_KEYS, flags=ATTENTION_BIAS, turned=TURNED
    ),
    "granitemoe": Architecture(
        ("GraniteMoeForCausalLM",),
        GRANITE_KEYS,
        flags=ATTENTION_BIAS,
        turned=TURNED,
        layer={
            "ffn_gate_inp": "block_sparse_moe.router",
            "ffn_gate_exps": "block_sparse_moe.experts.{}.gate_proj",
            "ffn_up_exps": "block_sparse_moe.experts.{}.up_proj",
            "ffn_down_exps": "block_sparse_moe.experts.{}.down_proj",
        },
    ),
    "hunyuan-dense": Architecture(
        ("HunYuanDenseV1ForCausalLM",),
        flags=ATTENTION_BIAS,
        layer={
            "attn_q_norm": "self_attn.query_layernorm",
            "attn_k_norm": "self_attn.key_layernorm",
        },
    ),
    "hunyuan-moe": Architecture(
        ("HunYuanMoEV1ForCausalLM",),
        {
            "expert_count": "num_experts",
            "expert_used_count": "moe_topk",
            "expert_shared_count": "num_shared_expert",
        },
        flags=ATTENTION_BIAS,
        layer={
            **names.EXPERTS,
            "attn_q_norm": "self_attn.query_layernorm",
            "attn_k_norm": "self_attn.key_layernorm",
            "ffn_gate_inp": "mlp.gate.wg",
            "ffn_gate_shexp": "mlp.shared_mlp.gate_proj",
            "ffn_up_shexp": "mlp.shared_mlp.up_proj",
            "ffn_down_shexp": "mlp.shared_mlp.down_proj",
        },
    ),
    "internlm2": Architecture(
        ("InternLM2ForCausalLM",), flags={"bias": ATTENTION_BIAS["attention_bias"]}, turned=TURNED
    ),
    "llama4": Architecture(
        ("Llama4ForCausalLM",),
        {
            "feed_forward_length": "intermediate_size_mlp",
            "expert_feed_forward_length": "intermediate_size",
        },
        layer={
            "ffn_gate_inp": "feed_forward.router",
            **{f"ffn_{each}": f"feed_forward.{each}_proj" for each in MATRICES},
            **{f"ffn_{each}_exps": f"feed_forward.experts.{{}}.{each}_proj" for each in MATRICES},
            **{f"ffn_{each}_shexp": f"feed_forward.shared_expert.{each}_proj" for each in MATRICES},
        },
        rules=(rules.llama4_norms,),
    ),
    "minicpm3": Architecture(
        ("MiniCPM3ForCausalLM",),
        LATENT_KEYS,
        {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 256},
        layer=names.LATENT,
        rules=(rules.latent_sizes,),
    ),
    "minimax-m2": Architecture(
        ("MiniMaxM2ForCausalLM",),
        {"rope.dimension_count": "rotary_dim", "expert_feed_forward_length": None},
        layer=names.SPARSE_BLOCK,
    ),
    "mistral3": Architecture(
        ("Ministral3ForCausalLM",), turned=TURNED, rules=(rules.ministral_rope,)
    ),
    "olmo2": Architecture(
        ("Olmo2ForCausalLM", "Olmo3ForCausalLM"), layer=POST_NORMS, rules=(rules.olmo_windows,)
    ),
    "olmoe": Architecture(
        ("OlmoeForCausalLM",), {"expert_count": "num_experts"}, layer=names.EXPERTS
    ),
    "phi3": Architecture(("Phi3ForCausalLM",), layer=names.FUSED),
    "phimoe": Architecture(
        ("PhimoeForCausalLM",),
        flags={**ATTENTION_BIAS, "lm_head_bias": ("output.bias",)},
        layer={**names.FUSED, **names.SPARSE_BLOCK},
    ),
    "qwen2": Architecture(("Qwen2ForCausalLM",)),
    "qwen2moe": Architecture(
        ("Qwen2MoeForCausalLM",),
        {
            "expert_count": "num_experts",
            "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
        },
        {"norm_topk_prob": False},
        layer={
            **names.EXPERTS,
            "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
            **{f"ffn_{each}_shexp": f"mlp.shared_expert.{each}_proj" for each in MATRICES},
        },
    ),
    "qwen3": Architecture(("Qwen3ForCausalLM",), flags=ATTENTION_BIAS),
    "qwen3moe": Architecture(
        ("Qwen3MoeForCausalLM",),
        {"expert_count": "num_experts"},
        {"norm_topk_prob": True},
        flags=ATTENTION_BIAS,
        layer=names.EXPERTS,
    ),
    "seed_oss": Architecture(
        ("SeedOssForCausalLM",),
        flags={**ATTENTION_BIAS, "attention_out_bias": ("blk.0.attn_output.bias",)},
        layer={"post_attention_norm": "post_attention_layernorm"},
    ),
    "smollm3": Architecture(("SmolLM3ForCausalLM",), flags=ATTENTION_BIAS, turned=TURNED),
    "starcoder2": Architecture(
        ("Starcoder2ForCausalLM",),
        {"attention.layer_norm_epsilon": "norm_epsilon"},
        flags={"use_bias": ("blk.0.attn_q.bias",)},
    ),
}
