"""Reads which layers see a sliding window."""

from __future__ import annotations

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families.parts import num_layers

__all__ = ["layer_windows", "sliding_window"]


def sliding_window(config: ConfigReader) -> int | None:
    """The window that config.json gives, None for null or 0."""
    return config.integer("sliding_window", 0) or None


def layer_windows(config: ConfigReader) -> tuple[int | None, ...]:
    """The sliding window of each layer, from `layer_types` or from `max_window_layers`.

    The rule of Qwen: windows exist only with use_sliding_window, and by default only in the layers
    from max_window_layers on.
    """
    layers, window = num_layers(config), sliding_window(config)
    enabled = config.flag("use_sliding_window")
    first, kinds = config.integer("max_window_layers", 28), config.get("layer_types")
    if not enabled or window is None:
        return (None,) * layers
    if kinds is None:
        return tuple(window if i >= first else None for i in range(layers))
    known = ("full_attention", "sliding_attention")
    if not isinstance(kinds, list) or len(kinds) != layers or any(k not in known for k in kinds):
        raise ModelError(
            f"{config.architecture}: layer_types must give full_attention or sliding_attention "
            f"for each of {layers} layers, got {kinds!r}"
        )
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)
