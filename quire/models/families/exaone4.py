"""EXAONE 4: norms behind each part of a block; no rotation in layers that see everything.

Source: the Exaone4ForCausalLM config of transformers.
"""

from __future__ import annotations

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, decoder, dense_mlp, grouped_attention, rms_norm
from quire.models.families.olmo import POST_NORMS
from quire.models.families.parts import head_dim, num_layers
from quire.models.families.rope_config import read_rope
from quire.models.families.windows import FULL, sliding_window, types_by_pattern, windows_of
from quire.models.registry import family
from quire.models.spec import ModelSpec

__all__ = ["exaone4"]


@family("Exaone4ForCausalLM", tiny={**TINY, "sliding_window": 8, "sliding_window_pattern": 2})
def exaone4(config: ConfigReader) -> ModelSpec:
    """EXAONE 4 and 4.0.1; the small ones have no windows and rotate everywhere."""
    norm, rope = rms_norm(config, eps=1e-5), read_rope(config, head_dim(config))
    windowed = sliding_window(config) is not None
    pattern = _pattern(config)
    types = types_by_pattern(config, pattern) if windowed else _all_full(config)
    attention = grouped_attention(
        config,
        qk_norm="heads",
        norm=norm,
        ropes=[None if windowed and each == FULL else rope for each in types],
        windows=windows_of(config, types),
    )
    return decoder(
        config, attention=attention, mlp=dense_mlp(config), norm=norm, block_norms=POST_NORMS
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
