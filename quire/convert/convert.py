"""Writes a checkpoint in another format, its numbers unchanged.

    compressed-tensors, awq, gptq  →  QuantizedMatrix  →  the same, gguf, or plain floats

What a format cannot hold is refused, never rounded again.  Only plain floats lose: they are rounded
to the model's own dtype.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from quire.config import EngineConfig
from quire.convert.format_tensors import check_format, quantization_config, tensors_of
from quire.convert.gguf_file import GGUF_NAME, write_gguf_file
from quire.convert.output import CheckpointWriter
from quire.convert.recipe import module_of
from quire.convert.scheme import Scheme
from quire.convert.source import parts_beside, shards_of
from quire.convert.stored_model import StoredModel, open_stored_model
from quire.errors import ConfigError
from quire.ops.number_formats import FORMATS, STORED_AS, from_float32
from quire.quant.formats.registry import KEYS
from quire.quant.matrix import QuantizedMatrix
from quire.weights.tensor import RawTensor

__all__ = ["Format", "convert_checkpoint", "scheme_of_matrix"]

Format = Literal["compressed-tensors", "awq", "gptq", "gguf", "float"]


def convert_checkpoint(
    config: EngineConfig, output: Path, format: Format, show_progress: bool = True
) -> None:
    """Write a model to `output`, a new directory.

    Raises ConfigError for a model of plain floats (which only GGUF takes as it is), an output that
    exists, and what the format cannot hold, naming the matrix.
    """
    if output.exists():
        raise ConfigError(f"{output} exists; give another --output, or delete it first")
    model = open_stored_model(config)
    if not model.matrices and format != "gguf":
        raise ConfigError(f"{config.model} holds plain floats; use `quire quantize` on it")
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if format == "gguf":
        write_gguf_file(model, partial / GGUF_NAME, Path(config.model).name)
    else:
        _write_safetensors(model, partial, format, show_progress)
    os.replace(partial, output)


def _write_safetensors(
    model: StoredModel, directory: Path, format: Format, show_progress: bool
) -> None:
    writing = _Writing(model, format)
    shards = shards_of(model.spec)
    writer = CheckpointWriter(directory, len(shards))
    records: list[dict[str, Any]] = []
    for number, names in enumerate(tqdm(shards, desc="Converting", disable=not show_progress)):
        tensors = [tensor for name in names for tensor in writing.tensors(name)]
        tensors += model.beside if number == len(shards) - 1 else []
        size = writer.write_shard(number, tensors)
        records.append({"bytes": size, "tensors": [tensor.name for tensor in tensors]})
    writer.write_rest(writing.config(model.config), model.directory, records)


class _Writing:
    """Reads each weight once and makes the tensors of the new format."""

    def __init__(self, model: StoredModel, format: Format) -> None:
        self._model, self._format = model, format
        self._schemes: dict[str, Scheme] = {}

    def tensors(self, name: str) -> list[RawTensor]:
        """The tensors that hold one weight."""
        weight, spec = self._model[name], self._model.spec
        if isinstance(weight, RawTensor):
            return [weight]
        if self._format == "float":
            kept = spec.dtype if spec.dtype in FORMATS else "bfloat16"
            values = from_float32(weight.float32(), kept)
            return [RawTensor(name, STORED_AS[kept], weight.shape, values)]
        assert self._format != "gguf"
        scheme = scheme_of_matrix(name, weight)
        self._schemes[name] = scheme
        check_format(self._format, self._schemes)
        return tensors_of(self._format, name, weight, scheme)

    def config(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """config.json of the new checkpoint, when all weights were written."""
        spec = self._model.spec
        config = {key: value for key, value in values.items() if key not in KEYS}
        config |= dict(spec.folded)
        if self._format in ("float", "gguf"):
            return config
        names = [linear.weight.name for linear in spec.linears()]
        unquantized = [module_of(name) for name in names if name not in self._schemes]
        if spec.tied:
            unquantized[-1:] = ["lm_head"]
        assert self._format != "float" and self._format != "gguf"
        section = quantization_config(
            self._format, self._schemes, unquantized, parts_beside(self._model.beside, spec)
        )
        return {**config, "quantization_config": section}


def scheme_of_matrix(name: str, matrix: QuantizedMatrix) -> Scheme:
    """The scheme that a matrix is stored in.  Raises ConfigError for one that none describes."""
    if matrix.minimums is not None:
        raise ConfigError(f"{name} has a minimum for each group, which only GGUF holds")
    size = None if matrix.group_size >= matrix.shape[1] else matrix.group_size
    if matrix.table is None:
        symmetric = matrix.zeros is None
        return Scheme(f"w{matrix.bits}a16", "integer", matrix.bits, size, symmetric)
    if matrix.bits == 8:
        return Scheme("fp8_w8a16", "float8", 8, size)
    exponents = np.log2(matrix.scales[matrix.scales > 0])
    if size != 32 or (exponents != np.rint(exponents)).any():
        raise ConfigError(f"{name} holds 4-bit floats with scales that MXFP4 does not have")
    return Scheme("mxfp4", "float4", 4, size, power_of_two=True)
