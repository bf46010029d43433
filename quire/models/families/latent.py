"""Multi-head latent attention with DeepSeek's names and keys of config.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from quire.models.attention_rules import QueryRule
from quire.models.config_reader import ConfigReader
from quire.models.families import parts
from quire.models.families.decoder import AttentionMaker
from quire.models.families.parts import num_layers
from quire.models.families.rope_config import IGNORING_KINDS, read_rope
from quire.models.spec import LatentAttention

__all__ = ["LATENT_TINY", "latent_attention", "next_token_layers"]

LATENT_TINY: Mapping[str, Any] = {
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
}

INNER_EPS = 1e-6
"""Of the norms within attention, whatever rms_norm_eps says of those before it."""


def latent_attention(
    config: ConfigReader,
    pairing: Literal["half", "interleaved"],
    *,
    value_dims: int | None = None,
    eps: float = INNER_EPS,
    others: Sequence[str] = (),
    query_rule: QueryRule | None = None,
) -> AttentionMaker:
    """Latent attention as config.json describes it, the same in every layer.

    pairing: of the rotation.  value_dims: the default of v_head_dim.  eps: of the norms within.
    others: as read_rope's.
    """
    dims = config.positive("qk_rope_head_dim")
    rope = read_rope(config, dims, pairing=pairing, others=others)
    width, heads = config.positive("hidden_size"), config.positive("num_attention_heads")
    rank, inner = config.positive("kv_lora_rank"), config.integer("q_lora_rank", 0)
    keys, values = config.positive("qk_nope_head_dim"), config.positive("v_head_dim", value_dims)
    query = keys + rope.dims
    scale = query**-0.5 * _yarn_scale(config)
    bias = config.flag("attention_bias")
    for key in ("num_key_value_heads", "head_dim", "qk_head_dim"):
        config.get(key)  # every head has a key and value of its own, of the sizes above

    def attention(layer: int, prefix: str) -> LatentAttention:
        down = parts.linear(prefix + "q_a_proj", inner, width, None, bias) if inner else None
        name, read = ("q_b_proj", inner) if inner else ("q_proj", width)
        down_rows = rank + rope.dims
        return LatentAttention(
            query_down=down,
            query_norm=parts.norm(prefix + "q_a_layernorm", inner, eps) if inner else None,
            query=parts.linear(prefix + name, heads * query, read, "rows", False, query),
            key_value_down=parts.linear(
                prefix + "kv_a_proj_with_mqa", down_rows, width, None, bias
            ),
            latent_norm=parts.norm(prefix + "kv_a_layernorm", rank, eps),
            key_value=parts.linear(
                prefix + "kv_b_proj", heads * (keys + values), rank, "rows", False, keys + values
            ),
            output=parts.linear(prefix + "o_proj", width, heads * values, "columns", bias, values),
            heads=heads,
            rank=rank,
            key_dims=keys,
            value_dims=values,
            scale=scale,
            rope=rope,
            query_rule=query_rule,
        )

    return attention


def next_token_layers(config: ConfigReader) -> tuple[str, ...]:
    """What the names of layers begin with that guess tokens further ahead, behind the others."""
    count, layers = config.integer("num_nextn_predict_layers", 0), num_layers(config)
    return tuple(f"model.layers.{layers + i}." for i in range(min(count, layers)))


def _yarn_scale(config: ConfigReader) -> float:
    """What a stretched rotation makes of the scale of scores: mscale squared, of mscale_all_dim."""
    values = {**config.section("rope_scaling"), **config.section("rope_parameters")}
    if values.get("rope_type", values.get("type", "default")) in IGNORING_KINDS:
        return 1.0
    fields = ConfigReader(values, config.architecture)
    factor = fields.number("factor", 1.0, low=1.0, high=1e6)
    weight = fields.number("mscale_all_dim", 0.0, low=0.0, high=1e3)
    return (0.1 * weight * math.log(factor) + 1) ** 2
