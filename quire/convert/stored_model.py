"""A checkpoint as it stands on disk: its quantized matrices and floats, read when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quire.config import EngineConfig
from quire.convert.source import find_directory, language_model, tensors_beside
from quire.models.config_reader import read_json
from quire.models.spec import ModelSpec
from quire.quant.matrix import QuantizedMatrix
from quire.runtime.open_model import read_config, tie_missing_head
from quire.runtime.stored_weights import find_stored
from quire.weights.checkpoint import open_checkpoint
from quire.weights.gguf.checkpoint import GgufMatrix
from quire.weights.loader import load_weights
from quire.weights.quantized import StoredMatrix
from quire.weights.tensor import RawTensor

__all__ = ["StoredModel", "open_stored_model"]


@dataclass(frozen=True, slots=True)
class StoredModel(Mapping[str, "RawTensor | QuantizedMatrix"]):
    """Weights by the spec's names; quantized ones are unpacked each time they are asked for.

    config: config.json as it is.  beside: what is no part of the language model.
    """

    directory: Path
    config: dict[str, Any]
    spec: ModelSpec
    matrices: Mapping[str, StoredMatrix | GgufMatrix]
    floats: Mapping[str, RawTensor]
    beside: list[RawTensor]

    def __getitem__(self, name: str) -> RawTensor | QuantizedMatrix:
        return self.matrices[name].read() if name in self.matrices else self.floats[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.spec.weights())

    def __len__(self) -> int:
        return len(self.spec.weights())


def open_stored_model(config: EngineConfig) -> StoredModel:
    """Open a model of any format that Quire reads from safetensors or .bin files."""
    directory = find_directory(config)
    spec, quantization = read_config(config, directory)
    checkpoint = open_checkpoint(directory)
    spec = language_model(tie_missing_head(spec, checkpoint))
    matrices = find_stored(checkpoint, spec, quantization)
    wanted = {name: w for name, w in spec.weights().items() if name not in matrices}
    used = [source for matrix in matrices.values() for source in matrix.sources]
    floats = load_weights(checkpoint, wanted, used, spec.unused)
    values = {**read_json(directory / "config.json"), **config.hf_overrides}
    beside = tensors_beside(checkpoint, spec)
    return StoredModel(directory, values, spec, matrices, floats, beside)
