"""Writes the weights of a model of any shape, drawn at random: speed does not depend on them."""

from __future__ import annotations

from pathlib import Path

from quire.models.spec import ModelSpec
from quire.weights.dummy import DummyCheckpoint
from quire.weights.safetensors_writer import SafetensorsWriter

__all__ = ["write_random_weights"]


def write_random_weights(path: Path, spec: ModelSpec) -> None:
    """One safetensors file in bfloat16, with the numbers that `--load-format dummy` draws.

    No more than one tensor is in memory at a time; the file gets its name when it is whole.
    """
    shapes = {name: weight.shape for name, weight in spec.weights().items()}
    drawn, partial = DummyCheckpoint(shapes, "BF16"), path.with_suffix(".part")
    with partial.open("wb") as file:
        writer = SafetensorsWriter(file, drawn.names)
        for name in drawn.names:
            tensor = drawn.tensor(name)
            writer.add(name, tensor.dtype, tensor.shape, (tensor.data,))
        writer.finish({"format": "pt"})
    partial.rename(path)
