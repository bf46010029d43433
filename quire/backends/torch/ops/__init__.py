"""The plain bodies, a file for each file of quire/ops: importing this registers them."""

from __future__ import annotations

from quire.backends.torch.ops import (
    activation,
    attention,
    collective,
    convolution,
    elementwise,
    embedding,
    experts,
    latent,
    linear,
    norm,
    quantize,
    recurrence,
    rope,
    routing,
    selection,
)

__all__ = [
    "activation",
    "attention",
    "collective",
    "convolution",
    "elementwise",
    "embedding",
    "experts",
    "latent",
    "linear",
    "norm",
    "quantize",
    "recurrence",
    "rope",
    "routing",
    "selection",
]
