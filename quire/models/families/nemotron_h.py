"""Nemotron-H: one part a layer, which is Mamba 2, attention without rotation, or squared ReLU.

Source: the config of NemotronHForCausalLM in transformers; arXiv:2504.03624.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families import parts
from quire.models.families.decoder import TINY, decoder, grouped_attention, rms_norm
from quire.models.families.experts import expert_count, router
from quire.models.families.mamba2 import FUSED, Mamba2Config, mamba2, time_step_limit
from quire.models.places import Layout
from quire.models.registry import family
from quire.models.spec import (
    ExpertGroups,
    FeedForward,
    GatedMLP,
    MixtureOfExperts,
    ModelSpec,
    TokenMixer,
    Weight,
)
from quire.models.stored_as import stored_as

__all__ = ["nemotron_h"]

TINY_NEMOTRON: dict[str, Any] = {
    **{key: value for key, value in TINY.items() if key != "num_hidden_layers"},
    "hybrid_override_pattern": "MM-M*E",
    "head_dim": 16,
    "mamba_num_heads": 8,
    "mamba_head_dim": 12,
    "ssm_state_size": 24,
    "n_groups": 2,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "moe_shared_expert_intermediate_size": 64,
}
PATTERN = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
KINDS = {"linear_attention": "mamba", "full_attention": "attention"}
"""Newer words for two of them."""

LAYOUT = Layout(
    layer="backbone.layers.{}.",
    names={
        "model.embed_tokens": "backbone.embeddings",
        "model.norm": "backbone.norm_f",
        "input_layernorm": "norm",
        "post_attention_layernorm": "norm",
        "mamba": "mixer",
        "mamba.norm": "mixer.norm",
        "mamba.out_proj": "mixer.out_proj",
        **{f"self_attn.{each}_proj": f"mixer.{each}_proj" for each in "qkvo"},
        **{f"mlp.{each}_proj": f"mixer.{each}_proj" for each in ("up", "down")},
        "mlp": "mixer",
    },
    fused={name.replace("mamba", "mixer", 1): parts for name, parts in FUSED.items()},
)
OF_OTHERS = (
    *("rescale_prenorm_residual", "residual_in_fp32", "num_logits_to_keep", "use_mamba_kernels"),
    *("time_step_min", "time_step_max", "time_step_floor", "mamba_ssm_cache_dtype"),
    *("num_nextn_predict_layers", "mtp_layers_block_type", "mtp_hybrid_override_pattern"),
    *("chunk_size", "expand"),
    *("n_shared_experts", "moe_shared_expert_overlap", "intermediate_size"),
    *("attention_head_dim", "time_step_rank", "rope_theta", "partial_rotary_factor"),
)
"""Keys of training, of other programs, of layers that guess ahead, of what sizes say too, and of a
rotation that attention here has not."""
OF_EXPERTS = (
    *("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", "moe_latent_size"),
    *("moe_shared_expert_intermediate_size", "routed_scaling_factor", "n_group", "topk_group"),
    "norm_topk_prob",
)
"""Keys without effect where no layer has experts."""


@family("NemotronHForCausalLM", tiny=TINY_NEMOTRON)
def nemotron_h(config: ConfigReader) -> ModelSpec:
    """Nemotron-H, Nemotron Nano 2, and Nemotron 3 Nano, which has experts."""
    kinds = _kinds(config)
    for key in (*OF_OTHERS, *(() if "moe" in kinds else OF_EXPERTS)):
        config.get(key)
    config = config.renamed({}, num_hidden_layers=len(kinds))
    width = config.positive("hidden_size")
    bias, mlp_bias = config.flag("attention_bias"), config.flag("mlp_bias")
    activation = parts.activation(config, "mlp_hidden_act", "relu2")
    sizes, ropes = _sizes(config), [None] * len(kinds)
    attention = grouped_attention(config, qkv_bias=bias, output_bias=bias, ropes=ropes)

    def mixer(layer: int, prefix: str) -> TokenMixer | None:
        if kinds[layer] == "mamba":
            return mamba2(sizes, prefix.removesuffix("self_attn.") + "mamba.")
        return attention(layer, prefix) if kinds[layer] == "attention" else None

    mixture = _experts(config) if "moe" in kinds else None

    def mlp(layer: int, prefix: str) -> FeedForward | None:
        if kinds[layer] == "moe" and mixture is not None:
            return mixture(layer, prefix)
        if kinds[layer] != "mlp":
            return None
        inner = config.positive("intermediate_size")
        return parts.plain_mlp(prefix, width, inner, mlp_bias, activation)

    norm = rms_norm(config.renamed({"rms_norm_eps": "layer_norm_epsilon"}), eps=1e-5)
    config.expect("norm_eps", config.number("layer_norm_epsilon", 1e-5))
    spec = decoder(config, attention=mixer, mlp=mlp, norm=norm, unused=("mtp.",))
    return stored_as(spec, LAYOUT)


def _experts(config: ConfigReader) -> Callable[[int, str], MixtureOfExperts]:
    """Experts without a gate, chosen as DeepSeek-V3 does, and one that all tokens meet."""
    for key, known in (("moe_latent_size", None), ("mlp_bias", False), ("mlp_hidden_act", "relu2")):
        if config.get(key, known) != known:
            raise ModelError(
                f"{config.architecture}: {key} {config.get(key)!r} is not computed with experts"
            )
    count, width = expert_count(config, "n_routed_experts"), config.positive("hidden_size")
    inner = config.positive("moe_intermediate_size", 7688)
    shared = config.positive("moe_shared_expert_intermediate_size", 7688)
    top_k = config.positive("num_experts_per_tok", 2)
    fields: dict[str, Any] = {
        "scoring": "sigmoid",
        "normalised": config.flag("norm_topk_prob", True),
        "scale": config.number("routed_scaling_factor", 1.0, low=1e-6, high=1e6),
        "groups": ExpertGroups(
            config.positive("n_group", 1), config.positive("topk_group", 1), "top2_sum"
        ),
    }

    def mixture(layer: int, prefix: str) -> MixtureOfExperts:
        bias = Weight(prefix + "gate.e_score_correction_bias", (count,))
        return MixtureOfExperts(
            router(config, prefix + "gate", count, top_k, selection_bias=bias, **fields),
            tuple(_squared(f"{prefix}experts.{e}.", width, inner) for e in range(count)),
            _squared(prefix + "shared_experts.", width, shared),
        )

    return mixture


def _squared(prefix: str, width: int, inner: int) -> GatedMLP:
    """relu(u)^2 is relu(u) * u: what an expert without a gate does, as one that is its own."""
    plain = parts.plain_mlp(prefix, width, inner, False, "relu_squared")
    return GatedMLP(plain.up, plain.up, plain.down, "relu")


def _sizes(config: ConfigReader) -> Mamba2Config:
    sizes = Mamba2Config(
        width=config.positive("hidden_size"),
        heads=config.positive("mamba_num_heads", 128),
        value_dim=config.positive("mamba_head_dim", 64),
        key_heads=config.positive("n_groups", 8),
        key_dim=config.positive("ssm_state_size", 128),
        taps=config.positive("conv_kernel", 4),
        conv_bias=config.flag("use_conv_bias", True),
        bias=config.flag("use_bias"),
        eps=config.number("layer_norm_epsilon", 1e-5, low=0.0, high=1.0),
        steps=time_step_limit(config),
    )
    sizes.check(config)
    if parts.activation(config, "mamba_hidden_act") != "silu":
        raise ModelError(f"{config.architecture}: mamba_hidden_act is not silu")
    if config.flag("mamba_proj_bias", sizes.bias) not in (False, sizes.bias):
        raise ModelError(f"{config.architecture}: mamba_proj_bias is set and use_bias is not")
    return sizes


def _kinds(config: ConfigReader) -> list[str]:
    """What each layer is: mamba, attention, mlp or moe."""
    pattern, kinds = config.get("hybrid_override_pattern"), config.get("layers_block_type")
    if kinds is None and isinstance(pattern, str):
        kinds = [PATTERN.get(letter, letter) for letter in pattern]
    kinds = [KINDS.get(each, each) for each in kinds] if isinstance(kinds, list) else []
    unknown = sorted({str(each) for each in kinds} - {"mamba", "attention", "mlp", "moe"})
    if unknown:
        raise ModelError(
            f"{config.architecture}: layers of {', '.join(unknown)} are not computed here; mamba "
            "(M), attention (*), mlp (-) and moe (E) are"
        )
    if "attention" not in kinds or "mamba" not in kinds:
        raise ModelError(
            f"{config.architecture}: hybrid_override_pattern names no attention or no Mamba layer"
        )
    if config.integer("num_hidden_layers", len(kinds)) != len(kinds):
        raise ModelError(
            f"{config.architecture}: hybrid_override_pattern is of {len(kinds)} layers, not of "
            "num_hidden_layers"
        )
    return kinds
