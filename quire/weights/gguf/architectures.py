"""The architectures of GGUF files: what each shares with config.json, and where it differs.

An architecture is an entry of ARCHITECTURES; what it shares with others stands in `names`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from quire.weights.gguf import names, rules
from quire.weights.gguf.names import ATTENTION_BIAS, LATENT_KEYS, TURNED, Names

__all__ = ["ARCHITECTURES", "Architecture", "Share"]

Share: TypeAlias = tuple[str, ...]
Rule: TypeAlias = Callable[[dict[str, Any], Collection[str]], None]


@dataclass(frozen=True, slots=True)
class Architecture:
    """One value of `general.architecture`.

    families: what config.json's `architectures` calls it; a file is read as the first of them, if
    no rule says otherwise.  also: further families whose models are written so.
    keys: as KEYS, where it differs; None: it changes nothing here.  given: what config.json says
    and the metadata leave out.  flags: key of config.json → tensors of which one makes it true.
    turned: tensors of a layer whose rows are stored for rotations of neighbours, head by head, and
    the key that says how many heads.
    layer: names of a layer's tensors beside the usual ones; of several ways to hold a weight, all
    are read and the first is written.  layers: what stands before them and the layer's number.
    outside: names of other tensors beside the usual ones.
    shares: of tensors that hold several modules, the keys whose product says how many rows each
    has; equal ones if there is none.  tiled: modules whose rows or columns are of value heads, in
    an order of their own (see tensor_of_weight).
    settings: what only some architectures' files say, and its files do, as
    quire.weights.gguf.settings names it; None: no file is written.
    norm_offset: what is added to the weights of norms.  rules: see quire.weights.gguf.rules.
    """

    families: tuple[str, ...]
    keys: Mapping[str, str | None] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    also: tuple[str, ...] = ()
    flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    turned: Mapping[str, str] = field(default_factory=dict)
    layer: Names = field(default_factory=dict)
    outside: Mapping[str, str] = field(default_factory=dict)
    layers: str = "model.layers"
    shares: Mapping[str, tuple[Share, ...]] = field(default_factory=lambda: names.SHARES)
    tiled: Mapping[str, Literal["rows", "columns"]] = field(default_factory=dict)
    settings: tuple[str, ...] | None = ()
    norm_offset: float = 0.0
    rules: tuple[Rule, ...] = ()

    @property
    def tensors(self) -> Mapping[str, str]:
        """Tensor outside of layers → module."""
        return {**names.TENSORS, **self.outside}

    @property
    def tensors_of_layer(self) -> Names:
        """Tensor of a layer → module."""
        usual = {own: each for own, each in names.TENSORS_OF_LAYER.items() if own not in self.layer}
        return {**self.layer, **usual}


MATRICES = ("gate", "up", "down")
LAYER_NORM = "attention.layer_norm_epsilon"
SHARED_MIXTURE: Names = {**names.EXPERTS, **names.SHARED_EXPERTS}
QWEN_MIXTURE: Names = {
    **names.EXPERTS,
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    **{f"ffn_{each}_shexp": f"mlp.shared_expert.{each}_proj" for each in MATRICES},
}
DEEPSEEK_KEYS = {"expert_count": "n_routed_experts"}
QWEN_MIXTURE_KEYS = {
    "expert_count": "num_experts",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}
NEMOTRON_KEYS = {
    **names.MAMBA_SIZES,
    LAYER_NORM: "layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon": "layer_norm_epsilon",
    "expert_count": "n_routed_experts",
    "expert_shared_feed_forward_length": "moe_shared_expert_intermediate_size",
    "moe_latent_size": "moe_latent_size",
}
GRANITE_KEYS = {"logit_scale": "logits_scaling"}
GRANITE_SCALES = ("attention.scale", "embedding_scale", "residual_scale", "logit_scale")
CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
WINDOW = ("attention.sliding_window",)
WINDOWS = (*WINDOW, "attention.sliding_window_pattern")
COUNTS = ("expert_count", "expert_used_count")
EXPERT_WIDTH = (*COUNTS, "expert_feed_forward_length")
WEIGHING = ("expert_weights_scale", "expert_weights_norm", "expert_gating_func")
GROUPS = ("expert_group_count", "expert_group_used_count")
DEEPSEEK_EXPERTS = (*EXPERT_WIDTH, "expert_shared_count", "leading_dense_block_count")
RANKS = ("attention.q_lora_rank", "attention.kv_lora_rank")
GRANITE_EXPERTS: Names = {
    "ffn_gate_inp": "block_sparse_moe.router",
    **{f"ffn_{each}_exps": f"block_sparse_moe.experts.{{}}.{each}_proj" for each in MATRICES},
}
GPT2_KEYS = {
    "context_length": "n_positions",
    "embedding_length": "n_embd",
    "block_count": "n_layer",
    "feed_forward_length": "n_inner",
    "attention.head_count": "n_head",
    LAYER_NORM: "layer_norm_epsilon",
}
POSITIONS = {"position_embd": "model.embed_positions"}
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
        settings=COUNTS,
    ),
    "afmoe": Architecture(
        ("AfmoeForCausalLM",),
        {
            "expert_count": "num_experts",
            "expert_shared_count": "num_shared_experts",
            "expert_weights_scale": "route_scale",
            "expert_weights_norm": "route_norm",
            "leading_dense_block_count": "num_dense_layers",
        },
        {"mup_enabled": True},
        flags=ATTENTION_BIAS,
        layer={
            **SHARED_MIXTURE,
            "exp_probs_b.bias": "mlp.expert_bias",
            "attn_gate": "self_attn.gate_proj",
            "post_attention_norm": "post_attention_layernorm",
            "ffn_norm": "pre_mlp_layernorm",
            "post_ffw_norm": "post_mlp_layernorm",
        },
        rules=(rules.window_pattern,),
        settings=(*DEEPSEEK_EXPERTS, *WEIGHING, *GROUPS, *WINDOWS),
    ),
    "arcee": Architecture(("ArceeForCausalLM",), flags=ATTENTION_BIAS, turned=TURNED),
    "baichuan": Architecture(
        ("BaiChuanForCausalLM", "BaichuanForCausalLM"), turned=TURNED, rules=(rules.alibi_in_13b,)
    ),
    "bloom": Architecture(
        ("BloomForCausalLM",),
        {
            "feed_forward_length": "n_inner",
            "attention.head_count_kv": None,
            LAYER_NORM: "layer_norm_epsilon",
        },
        layer=names.QKV,
        outside={"token_embd_norm": "model.embed_norm"},
    ),
    "chatglm": Architecture(
        ("GlmForCausalLM",),
        also=("ChatGLMModel", "ChatGLMForConditionalGeneration"),
        flags=ATTENTION_BIAS,
        layer=names.FUSED,
    ),
    "cohere2": Architecture(
        ("Cohere2ForCausalLM",),
        {LAYER_NORM: "layer_norm_eps"},
        flags=ATTENTION_BIAS,
        rules=(rules.window_pattern,),
        settings=(*WINDOWS, "logit_scale"),
    ),
    "command-r": Architecture(
        ("CohereForCausalLM",),
        {LAYER_NORM: "layer_norm_eps"},
        flags={**ATTENTION_BIAS, "use_qk_norm": ("blk.0.attn_q_norm.weight",)},
        settings=("logit_scale",),
    ),
    "deepseek": Architecture(
        ("DeepseekForCausalLM",),
        DEEPSEEK_KEYS,
        {"norm_topk_prob": False},
        turned=TURNED,
        layer=SHARED_MIXTURE,
        settings=(*DEEPSEEK_EXPERTS, "expert_weights_scale"),
    ),
    "deepseek2": Architecture(
        ("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"),
        {**DEEPSEEK_KEYS, **LATENT_KEYS},
        {"norm_topk_prob": False},
        layer={**SHARED_MIXTURE, **names.LATENT},
        rules=(rules.deepseek2,),
        settings=None,
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
        settings=(
            *DEEPSEEK_EXPERTS,
            "expert_shared_feed_forward_length",
            "interleave_moe_layer_step",
        ),
    ),
    "exaone4": Architecture(
        ("Exaone4ForCausalLM",), layer=POST_NORMS, rules=(rules.window_pattern,), settings=WINDOWS
    ),
    "falcon": Architecture(
        ("FalconForCausalLM",),
        {
            "feed_forward_length": "ffn_hidden_size",
            "attention.head_count_kv": "num_kv_heads",
            LAYER_NORM: "layer_norm_epsilon",
        },
        {"new_decoder_architecture": True},
        flags={"bias": ("blk.0.attn_qkv.bias",)},
        layer={**names.QKV, "attn_norm_2": "ln_attn"},
        rules=(rules.falcon_norms,),
    ),
    "falcon-h1": Architecture(
        ("FalconH1ForCausalLM",),
        names.MAMBA_SIZES,
        # Its files leave the ending of this one out.
        layer={**names.MAMBA, "ffn_norm": "post_attention_layernorm.weight"},
        settings=None,
        rules=(rules.falcon_h1,),
    ),
    "gemma": Architecture(("GemmaForCausalLM",), norm_offset=1.0),
    "gemma2": Architecture(
        ("Gemma2ForCausalLM",),
        layer=names.SANDWICH,
        norm_offset=1.0,
        rules=(rules.gemma_scale, rules.window_pattern),
        settings=(*CAPS, *WINDOW),
    ),
    "gemma3": Architecture(
        ("Gemma3ForCausalLM",),
        {"rope.freq_base_swa": "rope_local_base_freq"},
        {"rope_theta": 1e6},
        layer=names.SANDWICH,
        norm_offset=1.0,
        rules=(rules.gemma_scale, rules.window_pattern),
        settings=(*WINDOW, "rope.freq_base_swa"),
    ),
    "glm4": Architecture(
        ("Glm4ForCausalLM",),
        flags=ATTENTION_BIAS,
        layer={
            **names.APART,
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
        settings=(*DEEPSEEK_EXPERTS, *WEIGHING, *GROUPS),
    ),
    "gpt2": Architecture(("GPT2LMHeadModel",), GPT2_KEYS, layer=names.QKV, outside=POSITIONS),
    "gptneox": Architecture(
        ("GPTNeoXForCausalLM",),
        {LAYER_NORM: "layer_norm_eps"},
        flags={"attention_bias": ("blk.0.attn_qkv.bias",)},
        layer=names.QKV,
        settings=("use_parallel_residual",),
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
        settings=(*EXPERT_WIDTH, *WINDOW),
    ),
    "granite": Architecture(
        ("GraniteForCausalLM",),
        GRANITE_KEYS,
        flags=ATTENTION_BIAS,
        turned=TURNED,
        settings=GRANITE_SCALES,
    ),
    "granitemoe": Architecture(
        ("GraniteMoeForCausalLM",),
        GRANITE_KEYS,
        flags=ATTENTION_BIAS,
        turned=TURNED,
        layer=GRANITE_EXPERTS,
        settings=(*GRANITE_SCALES, *COUNTS),
    ),
    "granitehybrid": Architecture(
        ("GraniteMoeHybridForCausalLM", "BambaForCausalLM"),
        {
            **GRANITE_KEYS,
            **names.MAMBA_SIZES,
            "expert_shared_feed_forward_length": "shared_intermediate_size",
            "rope.scaling.finetuned": "position_embedding_type",
        },
        turned=TURNED,
        layer={
            **names.MAMBA,
            **GRANITE_EXPERTS,
            **{f"ffn_{each}_shexp": f"mlp.{each}_proj" for each in MATRICES},
        },
        settings=None,
        rules=(rules.granite_hybrid,),
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
        settings=(*EXPERT_WIDTH, "expert_shared_count", "expert_shared_feed_forward_length"),
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
        settings=(*EXPERT_WIDTH, "interleave_moe_layer_step"),
    ),
    "minicpm3": Architecture(
        ("MiniCPM3ForCausalLM",),
        LATENT_KEYS,
        {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 256},
        layer=names.LATENT,
        rules=(rules.latent_sizes,),
        settings=RANKS,
    ),
    "minimax-m2": Architecture(
        ("MiniMaxM2ForCausalLM",),
        {"rope.dimension_count": "rotary_dim", "expert_feed_forward_length": None},
        layer=names.SPARSE_BLOCK,
        settings=(*EXPERT_WIDTH, "expert_gating_func"),
    ),
    "mistral3": Architecture(
        ("Ministral3ForCausalLM",),
        turned=TURNED,
        rules=(rules.ministral_rope,),
        settings=("attention.temperature_scale", "rope.scaling.yarn_log_multiplier"),
    ),
    "mistral4": Architecture(
        ("Mistral4ForCausalLM",),
        {**DEEPSEEK_KEYS, **LATENT_KEYS},
        {"norm_topk_prob": False},
        layer={
            **SHARED_MIXTURE,
            **names.LATENT,
            "ffn_gate_up_exps": ("mlp.experts.{}.gate_proj", "mlp.experts.{}.up_proj"),
        },
        settings=None,
        rules=(rules.mistral4,),
    ),
    "mpt": Architecture(
        ("MptForCausalLM",),
        {
            "context_length": "max_seq_len",
            "embedding_length": "d_model",
            "block_count": "n_layers",
            "attention.head_count": "n_heads",
            LAYER_NORM: "layer_norm_epsilon",
        },
        layer=names.QKV,
        settings=("attention.max_alibi_bias",),
        rules=(rules.mpt_attention,),
    ),
    "nemotron": Architecture(
        ("NemotronForCausalLM",),
        {LAYER_NORM: "norm_eps", "attention.layer_norm_rms_epsilon": None},
        flags={**ATTENTION_BIAS, "mlp_bias": ("blk.0.ffn_up.bias",)},
        norm_offset=1.0,
    ),
    **dict.fromkeys(
        ("nemotron_h", "nemotron_h_moe"),
        Architecture(
            ("NemotronHForCausalLM",),
            NEMOTRON_KEYS,
            turned=TURNED,
            layer=names.NEMOTRON,
            outside={"token_embd": "backbone.embeddings", "output_norm": "backbone.norm_f"},
            layers="backbone.layers",
            settings=None,
            rules=(rules.nemotron_layers,),
        ),
    ),
    "olmo": Architecture(("OlmoForCausalLM",), {LAYER_NORM: None}, turned=TURNED),
    "olmo2": Architecture(
        ("Olmo2ForCausalLM", "Olmo3ForCausalLM"),
        layer=POST_NORMS,
        rules=(rules.olmo_windows,),
        settings=WINDOWS,
    ),
    "olmoe": Architecture(
        ("OlmoeForCausalLM",), {"expert_count": "num_experts"}, layer=names.EXPERTS, settings=COUNTS
    ),
    "phi2": Architecture(
        ("PhiForCausalLM",), {LAYER_NORM: "layer_norm_eps"}, layer={**names.APART, **names.QKV}
    ),
    "phi3": Architecture(("Phi3ForCausalLM",), layer=names.FUSED, settings=WINDOW),
    "phimoe": Architecture(
        ("PhimoeForCausalLM",),
        flags={**ATTENTION_BIAS, "lm_head_bias": ("output.bias",)},
        layer={**names.APART, **names.FUSED, **names.SPARSE_BLOCK},
        settings=(*COUNTS, *WINDOW),
    ),
    "qwen2": Architecture(("Qwen2ForCausalLM",)),
    "qwen2moe": Architecture(
        ("Qwen2MoeForCausalLM",),
        QWEN_MIXTURE_KEYS,
        {"norm_topk_prob": False},
        layer=QWEN_MIXTURE,
        settings=(*EXPERT_WIDTH, "expert_shared_feed_forward_length"),
    ),
    "qwen3": Architecture(("Qwen3ForCausalLM",), flags=ATTENTION_BIAS),
    "qwen3moe": Architecture(
        ("Qwen3MoeForCausalLM",),
        {"expert_count": "num_experts"},
        {"norm_topk_prob": True},
        flags=ATTENTION_BIAS,
        layer=names.EXPERTS,
        settings=EXPERT_WIDTH,
    ),
    "qwen3next": Architecture(
        ("Qwen3NextForCausalLM",),
        {**QWEN_MIXTURE_KEYS, **names.DELTA_NET_SIZES},
        layer={**QWEN_MIXTURE, **names.DELTA_NET, "ssm_ba": "linear_attn.in_proj_ba"},
        shares=names.DELTA_NET_SHARES,
        norm_offset=1.0,
        settings=None,
        rules=(rules.delta_nets,),
    ),
    "qwen35": Architecture(
        ("Qwen3_5ForCausalLM",),
        {**names.DELTA_NET_SIZES, "rope.dimension_sections": None},
        layer=names.DELTA_NET,
        shares=names.DELTA_NET_SHARES,
        tiled=names.OF_VALUE_HEADS,
        norm_offset=1.0,
        settings=None,
        rules=(rules.delta_nets,),
    ),
    "qwen35moe": Architecture(
        ("Qwen3_5MoeForCausalLM",),
        {**QWEN_MIXTURE_KEYS, **names.DELTA_NET_SIZES, "rope.dimension_sections": None},
        layer={**QWEN_MIXTURE, **names.DELTA_NET},
        shares=names.DELTA_NET_SHARES,
        tiled=names.OF_VALUE_HEADS,
        norm_offset=1.0,
        settings=None,
        rules=(rules.delta_nets,),
    ),
    "seed_oss": Architecture(
        ("SeedOssForCausalLM",),
        flags={**ATTENTION_BIAS, "attention_out_bias": ("blk.0.attn_output.bias",)},
        layer={"post_attention_norm": "post_attention_layernorm"},
    ),
    "smollm3": Architecture(("SmolLM3ForCausalLM",), flags=ATTENTION_BIAS, turned=TURNED),
    "stablelm": Architecture(
        ("StableLmForCausalLM",),
        {LAYER_NORM: "layer_norm_eps"},
        flags={
            "use_qkv_bias": ATTENTION_BIAS["attention_bias"],
            "qk_layernorm": ("blk.0.attn_q_norm.weight",),
        },
        layer={f"attn_{each}_norm": f"self_attn.{each}_layernorm" for each in "qk"},
        settings=("use_parallel_residual",),
    ),
    "starcoder": Architecture(
        ("GPTBigCodeForCausalLM",),
        GPT2_KEYS,
        layer=names.QKV,
        outside=POSITIONS,
        rules=(rules.one_key_head,),
    ),
    "starcoder2": Architecture(
        ("Starcoder2ForCausalLM",),
        {LAYER_NORM: "norm_epsilon"},
        flags={"use_bias": ("blk.0.attn_q.bias",)},
    ),
}
