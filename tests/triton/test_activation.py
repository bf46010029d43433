"""Gated activations are the reference op."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quire.backends.torch.triton.activation import gated_activation
from quire.backends.torch.triton.launcher import Launcher
from quire.ops.activation import ACTIVATIONS, GatedActivation


@pytest.mark.parametrize("kind", [*ACTIVATIONS, "clamped_swiglu"])
@pytest.mark.parametrize(("rows", "width"), [(1, 7), (3, 1500)])
def test_is_the_reference(gpu: Launcher, rows: int, width: int, kind: str) -> None:
    """Halves of one product; large numbers, and NaN, which stays NaN."""
    rng = np.random.default_rng(0)
    both = (rng.standard_normal((rows, 2 * width)) * 4).astype(np.float32)
    both[0, :6] = [0, 100, -100, 1e30, -1e30, np.nan]
    op = GatedActivation(kind, 1.702, 7.0)
    with np.errstate(all="ignore"):
        (expected,) = op.reference(None, both[:, :width], both[:, width:])  # type: ignore[arg-type]
    out = torch.empty(rows, width)
    gate, up = torch.from_numpy(both).split(width, dim=1)
    gated_activation(gpu, op, gate, up, out)
    np.testing.assert_allclose(out.numpy(), expected, rtol=2e-6, atol=4e-6)
