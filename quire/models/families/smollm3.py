"""SmolLM3: the Llama block, without a rotation in every fourth layer.

Source: the SmolLM3ForCausalLM config of transformers.
"""

from __future__ import annotations

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, decoder, dense_mlp, grouped_attention
from quire.models.families.parts import head_dim, num_layers
from quire.models.families.rope_config import read_rope
from quire.models.families.windows import FULL, SLIDING, layer_types, windows_of
from quire.models.registry import family
from quire.models.spec import ModelSpec

__all__ = ["smollm3"]


@family("SmolLM3ForCausalLM", tiny={**TINY, "no_rope_layer_interval": 2})
def smollm3(config: ConfigReader) -> ModelSpec:
    """SmolLM3 3B."""
    bias, rope = config.flag("attention_bias"), read_rope(config, head_dim(config), theta=2e6)
    rotated = _rotated(config)
    windows = None
    default = [FULL if each else SLIDING for each in rotated]
    if config.flag("use_sliding_window"):
        windows = windows_of(config, layer_types(config, default))
    else:
        for key in ("sliding_window", "layer_types", "max_window_layers"):
            config.get(key)  # said, but without effect
    attention = grouped_attention(
        config,
        qkv_bias=bias,
        output_bias=bias,
        ropes=[rope if each else None for each in rotated],
        windows=windows,
    )
    mlp = dense_mlp(config, config.flag("mlp_bias"))
    return decoder(config, attention=attention, mlp=mlp, tied=True)


def _rotated(config: ConfigReader) -> list[bool]:
    """Which layers rotate: no_rope_layers holds a 1 for them, against its name."""
    layers, interval = num_layers(config), config.positive("no_rope_layer_interval", 4)
    given = config.get("no_rope_layers", [int((i + 1) % interval != 0) for i in range(layers)])
    if not isinstance(given, list) or len(given) != layers or any(x not in (0, 1) for x in given):
        raise ModelError(
            f"{config.architecture}: no_rope_layers must give 0 or 1 for each of {layers} layers, "
            f"got {given!r}"
        )
    return [bool(each) for each in given]
