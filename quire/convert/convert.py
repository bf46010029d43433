"""Writes a quantized checkpoint in another format, its numbers unchanged.

    compressed-tensors, awq, gptq, …  →  QuantizedMatrix  →  compressed-tensors, awq, gptq, floats

What a format cannot hold is refused, never rounded again.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from quire.config import EngineConfig
from quire.convert.format_tensors import check_format, quantization_config, tensors_of
from quire.convert.output import CheckpointWriter
from quire.convert.recipe import module_of
from quire.convert.scheme import Scheme
from quire.convert.source import block_weights
from quire.errors import ConfigError
from quire.models.config_reader import read_json
from quire.models.spec import ModelSpec
from quire.ops.number_formats import FORMATS, from_float32
from quire.quant.formats.registry import KEYS
from quire.quant.matrix import QuantizedMatrix
from quire.runtime.load import find_model, read_config, tie_missing_head
from quire.runtime.stored_weights import find_stored
from quire.weights.checkpoint import open_checkpoint
from quire.weights.loader import load_weights
from quire.weights.quantized import StoredMatrix
from quire.weights.tensor import RawTensor

__all__ = ["Format", "convert_checkpoint", "scheme_of_matrix"]

logger = logging.getLogger(__name__)

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}

Format = Literal["compressed-tensors", "awq", "gptq", "float"]


def convert_checkpoint(
    config: EngineConfig, output: Path, format: Format, show_progress: bool = True
) -> int:
    """Write a quantized model to `output`, a new directory; the bytes of its tensors.

    Raises ConfigError for a model of plain floats, an output that exists, and what the format
    cannot hold, naming the matrix.
    """
    if output.exists():
        raise ConfigError(f"{output} exists; give another --output, or delete it first")
    directory = find_model(config)
    spec, quantization = read_config(config, directory)
    checkpoint = open_checkpoint(directory)
    spec = tie_missing_head(spec, checkpoint)
    stored = find_stored(checkpoint, spec, quantization)
    if not stored:
        raise ConfigError(f"{config.model} holds plain floats; use `quire quantize` on it")
    wanted = {name: w.shape for name, w in spec.weights().items() if name not in stored}
    used = [source for matrix in stored.values() for source in matrix.sources]
    plain = load_weights(checkpoint, wanted, used=used)
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    writing = _Writing(spec, stored, plain, format)
    groups = list(_groups(spec))
    writer = CheckpointWriter(partial, len(groups))
    records: list[dict[str, Any]] = []
    for number, names in enumerate(tqdm(groups, desc="Converting", disable=not show_progress)):
        tensors = [tensor for name in names for tensor in writing.tensors(name)]
        size = writer.write_shard(number, tensors)
        records.append({"bytes": size, "tensors": [tensor.name for tensor in tensors]})
    values = {**read_json(directory / "config.json"), **config.hf_overrides}
    writer.write_rest(writing.config(values), directory, records)
    os.replace(partial, output)
    return sum(int(record["bytes"]) for record in records)


class _Writing:
    """Reads each weight once and makes the tensors of the new format."""

    def __init__(
        self,
        spec: ModelSpec,
        stored: Mapping[str, StoredMatrix],
        plain: Mapping[str, RawTensor],
        format: Format,
    ) -> None:
        self._spec, self._stored, self._plain = spec, stored, plain
        self._format = format
        self._schemes: dict[str, Scheme] = {}

    def tensors(self, name: str) -> list[RawTensor]:
        """The tensors that hold one weight."""
        if name not in self._stored:
            return [self._plain[name]]
        matrix = self._stored[name].read()
        if self._format == "float":
            kept = self._spec.dtype if self._spec.dtype in FORMATS else "bfloat16"
            values = from_float32(matrix.float32(), kept)
            return [RawTensor(name, DTYPES[kept], matrix.shape, values)]
        scheme = scheme_of_matrix(name, matrix)
        self._schemes[name] = scheme
        check_format(self._format, self._schemes)
        return tensors_of(self._format, name, matrix, scheme)

    def config(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """config.json of the new checkpoint, when all weights were written."""
        config = {key: value for key, value in values.items() if key not in KEYS}
        if self._format == "float":
            return config
        names = [linear.weight.name for linear in self._spec.linears()]
        unquantized = [module_of(name) for name in names if name not in self._schemes]
        if self._spec.tied:
            unquantized = ["lm_head"]
        section = quantization_config(self._format, self._schemes, unquantized)
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


def _groups(spec: ModelSpec) -> Iterator[tuple[str, ...]]:
    """The weights of each shard."""
    yield (spec.embedding.weight.name,)
    for block in spec.blocks:
        yield block_weights(block)
    head = [spec.norm.weight.name]
    head += [] if spec.tied else [spec.head.weight.name]
    yield (*head, *([spec.head.bias.name] if spec.head.bias is not None else []))
