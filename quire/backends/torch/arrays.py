"""numpy arrays as tensors on a device."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

__all__ = ["DTYPES", "as_tensor"]

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
"""Names of number formats → torch's."""


def as_tensor(array: np.ndarray[Any, Any], device: torch.device) -> torch.Tensor:
    """The array on the device; on a CPU its own memory, where it can be shared.

    A copy to another device does not wait for the device.
    """
    if not array.flags.c_contiguous or not array.flags.aligned:
        array = np.ascontiguousarray(array).copy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        tensor = torch.from_numpy(array)  # of a mapped file, which nobody writes
    return tensor.to(device, non_blocking=True)
