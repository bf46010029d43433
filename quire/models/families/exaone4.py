"""EXAONE 4 and K-EXAONE: no rotation in layers that see everything.

EXAONE 4 has its norms behind each part of a block, K-EXAONE before, and the experts of DeepSeek-V3.

Source: the Exaone4ForCausalLM and ExaoneMoeForCausalLM configs of transformers.
"""

from __future__ import annotations

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import (
    TINY,
    GroupedMaker,
    NormMaker,
    decoder,
    dense_mlp,
    grouped_attention,
    rms_norm,
)
from quire.models.families.deepseek_experts import METHODS, deepseek_experts
from quire.models.families.glm4_moe_lite import dense_layers
from quire.models.families.olmo import POST_NORMS
from quire.models.families.parts import head_dim, num_layers
from quire.models.families.rope_config import read_rope
from quire.models.families.windows import FULL, sliding_window, types_by_pattern, windows_of
from quire.models.registry import family
from quire.models.spec import ModelSpec

__all__ = ["exaone4", "exaone_moe"]

TINY_EXAONE = {**TINY, "sliding_window": 8, "sliding_window_pattern": 2}
TINY_MIXTURE = {
    **TINY_EXAONE,
    "num_experts": 8,
    "num_shared_experts": 2,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 48,
}


@family("Exaone4ForCausalLM", tiny=TINY_EXAONE)
def exaone4(config: ConfigReader) -> ModelSpec:
    """EXAONE 4 and 4.0.1; the small ones have no windows and rotate everywhere."""
    norm = rms_norm(config, eps=1e-5)
    return decoder(
        config,
        attention=_attention(config, norm),
        mlp=dense_mlp(config),
        norm=norm,
        block_norms=POST_NORMS,
    )


@family("ExaoneMoeForCausalLM", "ExaoneMoEForCausalLM", tiny=TINY_MIXTURE)
def exaone_moe(config: ConfigReader) -> ModelSpec:
    """K-EXAONE 236B-A23B."""
    norm = rms_norm(config, eps=1e-5)
    experts = config.renamed(
        {"n_routed_experts": "num_experts"},
        first_k_dense_replace=dense_layers(config),
        n_shared_experts=config.integer("num_shared_experts", 1),
        routed_scaling_factor=config.number("routed_scaling_factor", 2.5, low=1e-6, high=1e6),
    )
    mlp = deepseek_experts(experts, METHODS["noaux_tc"], "e_score_correction_bias")
    return decoder(config, attention=_attention(config, norm), mlp=mlp, norm=norm, unused=("mtp.",))


def _attention(config: ConfigReader, norm: NormMaker) -> GroupedMaker:
    """Windows in all layers but every so many, and norms of heads."""
    rope = read_rope(config, head_dim(config))
    windowed = sliding_window(config) is not None
    pattern = _pattern(config)
    types = types_by_pattern(config, pattern) if windowed else _all_full(config)
    return grouped_attention(
        config,
        qk_norm="heads",
        norm=norm,
        ropes=[None if windowed and each == FULL else rope for each in types],
        windows=windows_of(config, types),
    )


def _pattern(config: ConfigReader) -> int:
    """A number, or letters such as LLLG, of which the last is the layer that sees everything."""
    pattern = config.get("sliding_window_pattern", 4)
    if isinstance(pattern, str) and pattern and pattern == "L" * (len(pattern) - 1) + "G":
        return len(pattern)
    return config.integer("sliding_window_pattern", 4, low=0) or 1


def _all_full(config: ConfigReader) -> tuple[str, ...]:
    config.get("layer_types")
    return (FULL,) * num_layers(config)
