"""Says in GGUF's metadata what a spec says of its model, the reverse of quire.weights.gguf.config.

Source: the keys of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from quire.errors import ModelError
from quire.models.rope import Rope, yarn_attention_factor
from quire.models.spec import Attention, LatentAttention, MixtureOfExperts, ModelSpec, parts
from quire.weights.gguf.architectures import Architecture
from quire.weights.gguf.config import LONG_FACTORS, ROPE_FACTORS
from quire.weights.gguf.rules import GATING
from quire.weights.gguf.write import Value

__all__ = ["factors_of", "settings_of"]

GATING_NUMBERS: Mapping[str, int] = {name: number for number, name in GATING.items()}
Factors = npt.NDArray[np.float32]


def settings_of(spec: ModelSpec, architecture: Architecture) -> dict[str, Value]:
    """The metadata of the architecture, without its name in front.

    What only some files say is written where the architecture lists it and the spec has it.
    Raises ModelError for a rotation that GGUF has no words for.
    """
    rope, listed = _rope(spec), architecture.settings or ()
    said: dict[str, Value | None] = {
        **_scales(spec, architecture),
        **_windows(spec, "attention.sliding_window_pattern" in listed),
        **_experts(spec),
        **_latent(spec),
    }
    found: dict[str, Value | None] = {
        "embedding_length": spec.width,
        "block_count": len(spec.blocks),
        "feed_forward_length": _inner(spec),
        "vocab_size": spec.vocab_size,
        **_heads(spec),
        **_epsilon(spec, architecture),
        **_rotation(spec, rope),
        **{key: said.get(key) for key in listed},
    }
    if "rope.scaling.yarn_log_multiplier" in listed:
        found.pop("rope.scaling.yarn_attn_factor", None)
    return {key: value for key, value in found.items() if value is not None}


def factors_of(spec: ModelSpec) -> dict[str, Factors]:
    """Tensors of what each frequency is divided by, where a rule decides pair by pair."""
    rope = _rope(spec)
    if rope is None:
        return {}
    scaling = rope.scaling
    if scaling.kind == "longrope":
        sets = {"short_factor": scaling.factors, "long_factor": scaling.long_factors}
        return {LONG_FACTORS[key]: np.array(each, np.float32) for key, each in sets.items()}
    if scaling.kind not in ("llama3", "factors"):
        return {}
    plain = np.array(Rope(rope.dims, rope.theta).inverse_frequencies())
    factors: Factors = (plain / np.array(rope.inverse_frequencies())).astype(np.float32)
    return {ROPE_FACTORS: factors}


def _rope(spec: ModelSpec) -> Rope | None:
    """The rotation of the first layer that sees all positions, or that turns at all."""
    turning = [each for each in spec.attentions if each.rope is not None]
    wide = [each for each in turning if each.reach is None]
    return next((each.rope for each in (*wide, *turning)), None)


def _heads(spec: ModelSpec) -> dict[str, Value | None]:
    first = spec.attentions[0]
    if isinstance(first, LatentAttention):
        assert first.rope is not None
        return {
            "attention.head_count": first.heads,
            "attention.head_count_kv": first.heads,
            "attention.key_length": first.key_dims + first.rope.dims,
            "attention.value_length": first.value_dims,
        }
    return {
        "attention.head_count": first.heads,
        "attention.head_count_kv": first.kv_heads,
        "attention.key_length": first.head_dim,
        "attention.value_length": first.head_dim,
    }


def _epsilon(spec: ModelSpec, architecture: Architecture) -> dict[str, Value | None]:
    """That of the last norm, under the name that the architecture has for it."""
    other = "attention.layer_norm_epsilon"
    key = other if other in architecture.keys else "attention.layer_norm_rms_epsilon"
    return {} if spec.norm is None else {key: spec.norm.eps}


def _inner(spec: ModelSpec) -> int | None:
    """The width of an MLP; of an expert where all layers have those."""
    mlps = [block.mlp for block in spec.blocks if block.mlp is not None]
    dense = [each for each in mlps if not isinstance(each, MixtureOfExperts)]
    experts = [each.experts[0] for each in mlps if isinstance(each, MixtureOfExperts)]
    return next((each.up.weight.shape[0] for each in (*dense, *experts)), None)


def _rotation(spec: ModelSpec, rope: Rope | None) -> dict[str, Value | None]:
    if rope is None:
        return {"context_length": spec.max_length}
    is_linear = rope.scaling.kind == "linear"
    return {
        "context_length": rope.scaling.original_length if is_linear else spec.max_length,
        "rope.dimension_count": rope.dims,
        "rope.freq_base": rope.theta,
        **{f"rope.scaling.{key}": value for key, value in _scaling(rope).items()},
    }


def _scaling(rope: Rope) -> Mapping[str, Value | None]:
    scaling = rope.scaling
    if scaling.kind in ("default", "llama3", "factors"):
        return {}
    if scaling.kind == "linear":
        return {"type": "linear", "factor": scaling.factor}
    if scaling.kind == "longrope":
        return {
            "attn_factor": scaling.attention_factor,
            "original_context_length": scaling.original_length,
        }
    if scaling.kind == "yarn":
        usual = math.isclose(scaling.attention_factor, yarn_attention_factor(scaling.factor))
        return {
            "type": "yarn",
            "factor": scaling.factor,
            "original_context_length": scaling.original_length,
            "yarn_attn_factor": None if usual else scaling.attention_factor,
            "yarn_beta_fast": scaling.beta_fast,
            "yarn_beta_slow": scaling.beta_slow,
        }
    raise ModelError(f"GGUF has no words for the rope scaling {scaling.kind!r}")


def _scales(spec: ModelSpec, architecture: Architecture) -> dict[str, Value | None]:
    """What scores, embeddings, sums and logits are multiplied by, or bound by."""
    first = spec.attentions[0]
    rule, divides = first.query_rule, architecture.keys.get("logit_scale") == "logits_scaling"
    return {
        "attention.scale": first.scale,
        "embedding_scale": spec.embedding.scale,
        "residual_scale": spec.blocks[0].residual_scale,
        "logit_scale": 1 / spec.logit_scale if divides else spec.logit_scale,
        "attn_logit_softcapping": first.softcap if isinstance(first, Attention) else None,
        "final_logit_softcapping": spec.logit_cap,
        "attention.temperature_scale": None if rule is None else rule.factor,
        "rope.scaling.yarn_log_multiplier": 1.0,
        "attention.max_alibi_bias": 8.0 if isinstance(first, Attention) and first.slopes else 0.0,
        "use_parallel_residual": spec.blocks[0].parallel,
    }


def _windows(spec: ModelSpec, some: bool) -> dict[str, Value | None]:
    """The window, which layers have it, and the base of those that turn by another one.

    some: only layers that the pattern names have it; where all have, 0 stands for none.
    """
    windows = [each.reach for each in spec.attentions]
    narrow = next((each for each in spec.attentions if each.reach), None)
    return {
        "attention.sliding_window": narrow.reach if narrow else None if some else 0,
        "attention.sliding_window_pattern": (
            np.array([bool(each) for each in windows]) if any(windows) else None
        ),
        "rope.freq_base_swa": None if narrow is None or not narrow.rope else narrow.rope.theta,
    }


def _experts(spec: ModelSpec) -> dict[str, Value | None]:
    """What is said of experts; nothing where there are none."""
    layers = [block.mlp for block in spec.blocks]
    at = [i for i, mlp in enumerate(layers) if isinstance(mlp, MixtureOfExperts)]
    first: MixtureOfExperts | None = next(parts(spec, MixtureOfExperts), None)
    if first is None:
        return {}
    router, inner = first.router, first.experts[0].up.weight.shape[0]
    shared = 0 if first.shared is None else first.shared.up.weight.shape[0]
    groups = (1, 1) if router.groups is None else (router.groups.count, router.groups.chosen)
    return {
        "expert_count": len(first.experts),
        "expert_used_count": router.top_k,
        "expert_feed_forward_length": inner,
        "expert_shared_feed_forward_length": shared,
        "expert_shared_count": shared // inner,
        "expert_weights_scale": router.scale,
        "expert_weights_norm": router.normalised,
        "expert_gating_func": GATING_NUMBERS.get(router.scoring),
        "expert_group_count": groups[0],
        "expert_group_used_count": groups[1],
        "leading_dense_block_count": at[0],
        "interleave_moe_layer_step": at[1] - at[0] if len(at) > 1 else 1,
    }


def _latent(spec: ModelSpec) -> dict[str, Value | None]:
    first = spec.attentions[0]
    latent = first if isinstance(first, LatentAttention) else None
    down = None if latent is None else latent.query_down
    return {
        "attention.q_lora_rank": None if down is None else down.weight.shape[0],
        "attention.kv_lora_rank": None if latent is None else latent.rank,
    }
