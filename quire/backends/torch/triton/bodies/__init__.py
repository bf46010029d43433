"""The kernels as bodies of ops: importing this registers them, and each asks for its device."""

from __future__ import annotations

from quire.backends.torch.triton.bodies import (
    activation,
    attention,
    experts,
    linear,
    norm,
    quantized,
    rope,
)

__all__ = ["activation", "attention", "experts", "linear", "norm", "quantized", "rope"]
