"""The kernels as bodies of ops: importing this registers them, and each asks for its device."""

from __future__ import annotations

from quire.backends.torch.triton.bodies import (
    activation,
    attention,
    experts,
    latent,
    linear,
    norm,
    quantized,
    recurrent,
    rope,
)

__all__ = [
    "activation",
    "attention",
    "experts",
    "latent",
    "linear",
    "norm",
    "quantized",
    "recurrent",
    "rope",
]
