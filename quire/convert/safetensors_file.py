"""Writes a safetensors file: the header, then every tensor's bytes, in one move."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from quire.weights.tensor import RawTensor

__all__ = ["replace_file", "write_safetensors"]

ALIGNMENT = 8


def write_safetensors(path: Path, tensors: Sequence[RawTensor]) -> None:
    """Write tensors in this order; the file is whole or not there."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in tensors:
        end = at + tensor.nbytes
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            data = tensor.data
            file.write(np.ascontiguousarray(data, data.dtype.newbyteorder("<")).data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a small file in one move."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(part, path)
