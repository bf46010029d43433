"""Writes the files of a checkpoint, each in one move."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from quire.weights.safetensors_writer import SafetensorsWriter
from quire.weights.tensor import RawTensor

__all__ = ["replace_file", "write_safetensors"]


def write_safetensors(path: Path, tensors: Sequence[RawTensor]) -> None:
    """Write tensors in this order; the file is whole or not there."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        writer = SafetensorsWriter(file, [tensor.name for tensor in tensors])
        for tensor in tensors:
            writer.add(tensor.name, tensor.dtype, tensor.shape, (tensor.data,))
        writer.finish({"format": "pt"})
    os.replace(part, path)


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a small file in one move."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(part, path)
