"""What config.json says and a GGUF file does not, or says in another way, by architecture.

A rule edits what was made of the metadata; the file's tensors are told by their names.
Source: how llama.cpp writes and reads these files.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

__all__ = [
    "alibi_in_13b",
    "deepseek2",
    "delta_nets",
    "exact_ramp",
    "falcon_h1",
    "falcon_norms",
    "gemma_scale",
    "granite_hybrid",
    "latent_sizes",
    "llama4_norms",
    "llama_experts",
    "ministral_rope",
    "mistral4",
    "mpt_attention",
    "nemotron_layers",
    "olmo_windows",
    "one_key_head",
    "window_pattern",
    "without_next_tokens",
]

Config = dict[str, Any]
Tensors = Collection[str]

GATING = {1: "softmax", 2: "sigmoid"}
LARGE_GEMMAS = (46, 62)
"""Layers of the 27B models of Gemma 2 and 3: their scores are scaled by width over heads."""


def without_next_tokens(config: Config, tensors: Tensors) -> None:
    """The layers that guess ahead are counted with the others; the experts' scores are a number."""
    ahead = config.get("num_nextn_predict_layers", 0)
    if isinstance(ahead, int) and isinstance(config.get("num_hidden_layers"), int):
        config["num_hidden_layers"] -= ahead
    if config.get("scoring_func") in GATING:
        config["scoring_func"] = GATING[config["scoring_func"]]


def llama_experts(config: Config, tensors: Tensors) -> None:
    """Mixtral goes by the name of Llama; so does InternLM3, where only q, k and v have biases."""
    bias, mlp_bias = config.pop("attention_bias"), config.pop("mlp_bias")
    if config.get("num_local_experts"):
        config["architectures"] = ["MixtralForCausalLM"]
    elif bias and "blk.0.attn_output.bias" not in tensors:
        config.update(architectures=["InternLM3ForCausalLM"], qkv_bias=True, bias=mlp_bias)
    else:
        config.update(attention_bias=bias, mlp_bias=mlp_bias)


def gemma_scale(config: Config, tensors: Tensors) -> None:
    """The scale of scores, which only the number of layers tells."""
    large = config["num_hidden_layers"] in LARGE_GEMMAS
    width = config["hidden_size"] / config["num_attention_heads"]
    config["query_pre_attn_scalar"] = width if large else config["head_dim"]


def window_pattern(config: Config, tensors: Tensors) -> None:
    """Which layers have a window: a flag for each, or one number for all."""
    pattern, layers = config.get("sliding_window_pattern"), config.get("num_hidden_layers")
    if isinstance(pattern, bool) and isinstance(layers, int):
        pattern = [pattern] * layers
    if isinstance(pattern, list):
        del config["sliding_window_pattern"]
        kinds = {True: "sliding_attention", False: "full_attention"}
        config["layer_types"] = [kinds[bool(each)] for each in pattern]


def olmo_windows(config: Config, tensors: Tensors) -> None:
    """OLMo 3 goes by the name of OLMo 2, and has windows."""
    window_pattern(config, tensors)
    if config.get("sliding_window"):
        config["architectures"] = ["Olmo3ForCausalLM"]


def latent_sizes(config: Config, tensors: Tensors) -> None:
    """The parts of a head; newer files count the cached row as the key, and name the head's own."""
    names = ("key_length", "value_length")
    whole = {name: config.pop(name, None) for name in names}
    own = {name: config.pop(f"{name}_mla", None) or whole[name] for name in names}
    key, value = (own[name] for name in names)
    if isinstance(key, int) and isinstance(config.get("qk_rope_head_dim"), int):
        config["qk_nope_head_dim"] = key - config["qk_rope_head_dim"]
    if value is not None:
        config["v_head_dim"] = value
    scaling = config.get("rope_scaling", {})
    if "mscale_all_dim" in scaling:  # stored as a tenth; what it does to cosines cancels out
        scaling["mscale_all_dim"] = round(10 * scaling["mscale_all_dim"], 6)
        scaling["mscale"] = scaling["mscale_all_dim"]


def deepseek2(config: Config, tensors: Tensors) -> None:
    """DeepSeek-V2, V3 and those who took over their blocks share a name."""
    latent_sizes(config, tensors)
    biased = any(name.endswith("exp_probs_b.bias") for name in tensors)
    if config.get("scoring_func") == "sigmoid" or biased:
        config["architectures"] = ["DeepseekV3ForCausalLM"]
    elif config.get("n_group", 1) > 1:
        config["topk_method"] = "group_limited_greedy"
    else:
        config["topk_method"] = "greedy"


def llama4_norms(config: Config, tensors: Tensors) -> None:
    """Scout normalises heads, Maverick with its 128 experts does not."""
    config["use_qk_norm"] = config.get("num_local_experts") != 128


def ministral_rope(config: Config, tensors: Tensors) -> None:
    """What queries are scaled by stands in the section of the rotation."""
    scaling = config.get("rope_scaling", {})
    if beta := config.pop("attn_scale", None):
        scaling["llama_4_scaling_beta"] = beta
    if "mscale_all_dim" in scaling:
        scaling["mscale"] = scaling["mscale_all_dim"]


def alibi_in_13b(config: Config, tensors: Tensors) -> None:
    """Baichuan 13B, with its 40 layers, has ALiBi in place of rotations."""
    large = config["num_hidden_layers"] == 40
    config["architectures"] = ["BaichuanForCausalLM" if large else "BaiChuanForCausalLM"]
    if large:
        for key in ("rope_theta", "partial_rotary_factor"):
            config.pop(key, None)


def falcon_norms(config: Config, tensors: Tensors) -> None:
    """Attention and MLP share a norm, or have one each."""
    config["num_ln_in_parallel_attn"] = 2 if _has_any(tensors, "attn_norm_2.weight") else 1


def one_key_head(config: Config, tensors: Tensors) -> None:
    """All queries share one key and value head, or each has its own."""
    config["multi_query"] = config.pop("num_key_value_heads", 1) == 1


def mpt_attention(config: Config, tensors: Tensors) -> None:
    """The rules of attention stand in a section of their own, and the MLP's width is a factor."""
    bias = config.pop("alibi", 0.0)
    section = {"alibi": bias > 0, "alibi_bias_max": bias, "clip_qkv": config.pop("clip_qkv", None)}
    config["attn_config"] = section
    inner, width = config.pop("intermediate_size", None), config.get("d_model")
    config["expansion_ratio"] = _shared(inner, width)


def exact_ramp(config: Config, tensors: Tensors) -> None:
    """The ends of YaRN's ramp are not rounded to whole pairs."""
    if config.get("rope_scaling", {}).get("rope_type") == "yarn":
        config["rope_scaling"]["truncate"] = False


def mistral4(config: Config, tensors: Tensors) -> None:
    """Files do not say how its queries grow; Mistral Small 4's do by a tenth."""
    latent_sizes(config, tensors)
    scaling = config.get("rope_scaling", {})
    scaling.setdefault("llama_4_scaling_beta", config.pop("attn_scale", 0.1))


def delta_nets(config: Config, tensors: Tensors) -> None:
    """Which layers carry a state, told by their tensors, and the size of their values."""
    kinds = ("full_attention", "linear_attention")
    config["layer_types"] = [kinds[f"blk.{i}.ssm_a" in tensors] for i in _layers(config)]
    config.pop("full_attention_interval", None)
    heads = config.get("linear_num_value_heads")
    config["linear_value_head_dim"] = _shared(config.pop("ssm.inner_size", None), heads)
    config["attention_bias"] = _has_any(tensors, "attn_q.bias")


def granite_hybrid(config: Config, tensors: Tensors) -> None:
    """Granite 4 H, and Bamba, which rotates and has no multipliers."""
    sizes = _mamba_sizes(config)
    config.update(
        mamba_n_heads=sizes["heads"],
        mamba_d_head=sizes["head_dim"],
        mamba_d_state=sizes["state_size"],
        mamba_n_groups=sizes["group_count"],
        mamba_d_conv=sizes["conv_kernel"],
        mamba_expand=_shared(sizes["inner_size"], config.get("hidden_size")),
        mamba_conv_bias=_has_any(tensors, "ssm_conv1d.bias"),
        attention_bias=_has_any(tensors, "attn_q.bias"),
    )
    rotates = config.pop("position_embedding_type", False)
    attention = [f"blk.{i}.attn_q.weight" in tensors for i in _layers(config)]
    if rotates and "embedding_multiplier" not in config:
        config["architectures"] = ["BambaForCausalLM"]
        config["attn_layer_indices"] = [i for i, found in enumerate(attention) if found]
        return
    config["position_embedding_type"] = "rope" if rotates else "nope"
    config["layer_types"] = ["attention" if found else "mamba" for found in attention]
    config.setdefault("num_local_experts", 0)
    if not config["num_local_experts"]:
        config.setdefault("shared_intermediate_size", config.get("intermediate_size"))


def falcon_h1(config: Config, tensors: Tensors) -> None:
    """Its weights are multiplied already, by all that config.json has multipliers for."""
    sizes = _mamba_sizes(config)
    config.update(
        mamba_n_heads=sizes["heads"],
        mamba_d_head=sizes["head_dim"],
        mamba_d_ssm=sizes["inner_size"],
        mamba_d_state=sizes["state_size"],
        mamba_n_groups=sizes["group_count"],
        mamba_d_conv=sizes["conv_kernel"],
        mamba_conv_bias=_has_any(tensors, "ssm_conv1d.bias"),
        mamba_rms_norm=_has_any(tensors, "ssm_norm.weight"),
        mamba_norm_before_gate=False,
    )


def nemotron_layers(config: Config, tensors: Tensors) -> None:
    """What each layer is, told by its tensors."""
    sizes = _mamba_sizes(config)
    config.update(
        mamba_num_heads=sizes["heads"],
        mamba_head_dim=sizes["head_dim"],
        ssm_state_size=sizes["state_size"],
        n_groups=sizes["group_count"],
        conv_kernel=sizes["conv_kernel"],
        use_conv_bias=_has_any(tensors, "ssm_conv1d.bias"),
        attention_bias=_has_any(tensors, "attn_q.bias"),
        mlp_bias=_has_any(tensors, "ffn_up.bias"),
    )
    kinds = {"ssm_a": "mamba", "attn_q.weight": "attention", "ffn_gate_inp.weight": "moe"}
    config["layers_block_type"] = [
        next((kind for end, kind in kinds.items() if f"blk.{i}.{end}" in tensors), "mlp")
        for i in _layers(config)
    ]
    inner = config.get("intermediate_size")
    if isinstance(inner, list):
        config["intermediate_size"] = max(inner)
    for key in ("rope_theta", "partial_rotary_factor"):
        config.pop(key, None)


def _mamba_sizes(config: Config) -> dict[str, Any]:
    """Those of Mamba 2; key and value heads are counted layer by layer."""
    names = ("conv_kernel", "state_size", "group_count", "inner_size")
    sizes = {name: config.pop(f"ssm.{name}", None) for name in names}
    heads = config.pop("ssm.time_step_rank", None)
    kv_heads = config.get("num_key_value_heads")
    if isinstance(kv_heads, list):
        config["num_key_value_heads"] = max(kv_heads)
    return {**sizes, "heads": heads, "head_dim": _shared(sizes["inner_size"], heads)}


def _layers(config: Config) -> range:
    layers = config.get("num_hidden_layers")
    return range(layers if isinstance(layers, int) else 0)


def _shared(total: Any, count: Any) -> Any:
    """The size of one of `count` equal parts; None where a setting is missing."""
    whole = isinstance(total, int) and isinstance(count, int) and count > 0
    return total // count if whole else None


def _has_any(tensors: Tensors, ending: str) -> bool:
    return any(name.endswith("." + ending) for name in tensors)
