"""OLMo 2 and 3: norms only behind each part of a block, and over all heads of q and k at once.

Source: the Olmo2ForCausalLM and Olmo3ForCausalLM configs of transformers.
"""

from __future__ import annotations

from collections.abc import Sequence

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import (
    TINY,
    BlockNorms,
    decoder,
    dense_mlp,
    grouped_attention,
    rms_norm,
)
from quire.models.families.parts import head_dim, num_layers
from quire.models.families.rope_config import read_rope, read_ropes
from quire.models.families.windows import types_by_pattern, windows_of
from quire.models.registry import family
from quire.models.rope import Rope
from quire.models.spec import ModelSpec

__all__ = ["POST_NORMS", "olmo2", "olmo3"]

POST_NORMS = BlockNorms(
    attention_output="post_attention_layernorm", mlp_output="post_feedforward_layernorm"
)


@family("Olmo2ForCausalLM", tiny=TINY)
def olmo2(config: ConfigReader) -> ModelSpec:
    """OLMo 2."""
    rope = read_rope(config, head_dim(config), theta=500000.0)
    return _olmo(config, [rope] * num_layers(config), None)


@family("Olmo3ForCausalLM", tiny={**TINY, "sliding_window": 8, "num_hidden_layers": 4})
def olmo3(config: ConfigReader) -> ModelSpec:
    """OLMo 3: three layers with a window for one without, whose rope alone is stretched."""
    types = types_by_pattern(config, 4)
    ropes = read_ropes(config, head_dim(config), types, theta=500000.0)
    return _olmo(config, ropes, windows_of(config, types))


def _olmo(
    config: ConfigReader, ropes: Sequence[Rope], windows: Sequence[int | None] | None
) -> ModelSpec:
    bias, norm = config.flag("attention_bias"), rms_norm(config, eps=1e-5)
    attention = grouped_attention(
        config,
        qkv_bias=bias,
        output_bias=bias,
        qk_norm="rows",
        norm=norm,
        ropes=ropes,
        windows=windows,
    )
    return decoder(
        config, attention=attention, mlp=dense_mlp(config), norm=norm, block_norms=POST_NORMS
    )
