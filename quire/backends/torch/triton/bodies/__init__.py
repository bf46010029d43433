"""The kernels as bodies of ops: importing this registers them, and each asks for its device.

The plain bodies come first, for the last one registered is asked first.
"""

from __future__ import annotations

import quire.backends.torch.ops  # noqa: F401  registers the plain bodies
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
