"""Reads which layers see a sliding window, and which are of which type."""

from __future__ import annotations

from collections.abc import Sequence

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families.parts import num_layers

__all__ = [
    "FULL",
    "SLIDING",
    "layer_types",
    "layer_windows",
    "sliding_window",
    "types_by_pattern",
    "windows_of",
]

FULL, SLIDING = "full_attention", "sliding_attention"


def sliding_window(config: ConfigReader) -> int | None:
    """The window that config.json gives, None for null, 0 or -1."""
    window = config.integer("sliding_window", 0, low=-1)
    return window if window > 0 else None


def layer_types(config: ConfigReader, default: Sequence[str]) -> tuple[str, ...]:
    """The type of each layer, as `layer_types` says; `default` where config.json says nothing."""
    layers, kinds = num_layers(config), config.get("layer_types", list(default))
    known = (FULL, SLIDING)
    if not isinstance(kinds, list) or len(kinds) != layers or any(k not in known for k in kinds):
        raise ModelError(
            f"{config.architecture}: layer_types must give full_attention or sliding_attention "
            f"for each of {layers} layers, got {kinds!r}"
        )
    return tuple(kinds)


def types_by_pattern(config: ConfigReader, pattern: int) -> tuple[str, ...]:
    """Every `pattern`-th layer sees all, the others a window; `layer_types` wins."""
    default = [SLIDING if (i + 1) % pattern else FULL for i in range(num_layers(config))]
    return layer_types(config, default)


def windows_of(config: ConfigReader, types: Sequence[str]) -> tuple[int | None, ...]:
    """The window of each layer: that of config.json where its type is sliding."""
    window = sliding_window(config)
    return tuple(window if each == SLIDING else None for each in types)


def layer_windows(config: ConfigReader) -> tuple[int | None, ...]:
    """The sliding window of each layer, from `layer_types` or from `max_window_layers`.

    The rule of Qwen: windows exist only with use_sliding_window, and by default only in the layers
    from max_window_layers on.
    """
    layers, window = num_layers(config), sliding_window(config)
    enabled, first = config.flag("use_sliding_window"), config.integer("max_window_layers", 28)
    if not enabled or window is None:
        config.get("layer_types")
        return (None,) * layers
    default = [SLIDING if i >= first else FULL for i in range(layers)]
    return windows_of(config, layer_types(config, default))
