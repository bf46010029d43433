"""A small config.json of any family, with changes."""

from __future__ import annotations

from typing import Any

from quire.models.registry import load_families

__all__ = ["tiny"]


def tiny(architecture: str = "LlamaForCausalLM", **changes: Any) -> dict[str, Any]:
    """A small config; a change to `...` leaves the key out."""
    values = {"architectures": [architecture], **load_families()[architecture].tiny, **changes}
    return {key: value for key, value in values.items() if value is not ...}
