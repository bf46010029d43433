"""GGUF: each tensor says its own format, so there is none that a layer's name decides.

The formats are in quire.quant.gguf_blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quire.quant.formats.scheme import ModuleSchemes

__all__ = ["schemes"]


def schemes(config: Mapping[str, Any]) -> ModuleSchemes:
    """None for every layer: what is quantized, the checkpoint knows."""
    return lambda module: None
