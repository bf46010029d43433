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
    "exact_ramp",
    "gemma_scale",
    "latent_sizes",
    "llama4_norms",
    "llama_experts",
    "ministral_rope",
    "olmo_windows",
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


def exact_ramp(config: Config, tensors: Tensors) -> None:
    """The ends of YaRN's ramp are not rounded to whole pairs."""
    if config.get("rope_scaling", {}).get("rope_type") == "yarn":
        config["rope_scaling"]["truncate"] = False
