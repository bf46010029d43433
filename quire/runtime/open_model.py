"""Reads a model from its directory: what it is, and its weights as they will be served."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quire.backends.executable import LoadedWeights, StoredWeight
from quire.config import EngineConfig
from quire.errors import ConfigError
from quire.models.config_reader import read_json
from quire.models.nested_config import SECTIONS
from quire.models.pooling import Pooling, pooling_of
from quire.models.registry import build_spec
from quire.models.spec import Linear, ModelSpec
from quire.ops.number_formats import STORED_AS, from_float32
from quire.quant.formats.registry import KEYS as QUANTIZATION_KEYS
from quire.quant.formats.registry import Quantization, find_quantization
from quire.quant.packed import PackedMatrix
from quire.weights.checkpoint import Checkpoint, open_checkpoint
from quire.weights.dummy import DummyCheckpoint
from quire.weights.gguf.files import SUFFIX
from quire.weights.hub import resolve_model
from quire.weights.loader import load_weights, spellings
from quire.weights.tensor import RawTensor

__all__ = [
    "OpenModel",
    "find_model",
    "open_model",
    "read_config",
    "read_spec",
    "tie_missing_head",
]

logger = logging.getLogger(__name__)

QUANTIZATION_FILES = {"quantize_config.json": "gptq", "hf_quant_config.json": "modelopt"}
"""Where older writers put what config.json lacks → the method that it is of."""


@dataclass(frozen=True, slots=True)
class OpenModel:
    """What a directory holds.

    pooling: what becomes of rows; None: text.  scheme: how its matrices are stored, in one word.
    """

    directory: Path
    spec: ModelSpec
    pooling: Pooling | None
    weights: LoadedWeights
    scheme: str


def open_model(config: EngineConfig, directory: Path, threads: int) -> OpenModel:
    """The model in a directory, as a config wants it.

    threads: for packing weights, where they are not packed yet.  Raises ModelError or
    CheckpointError for what is wrong with it, ConfigError for options that it refuses.
    """
    spec, quantization = read_config(config, directory)
    values = {**_read_values(directory), **config.hf_overrides}
    spec, pooling = pooling_of(config.task, spec, directory, values)
    checkpoint = _open(config, spec, directory)
    spec = tie_missing_head(spec, checkpoint)
    _refuse_unserved(config, spec)
    weights = _read_weights(config, checkpoint, spec, quantization, directory, threads)
    scheme = quantization.key if quantization else config.quantization
    return OpenModel(directory, spec, pooling, weights, scheme)


def find_model(config: EngineConfig) -> Path:
    """The directory of the model, downloaded if it is a name on a hub."""
    return resolve_model(
        config.model, config.revision, config.source, config.offline, config.download_dir
    )


def read_spec(config: EngineConfig, directory: Path) -> ModelSpec:
    """The spec of the model in a directory, with the user's overrides."""
    return read_config(config, directory)[0]


def read_config(config: EngineConfig, directory: Path) -> tuple[ModelSpec, Quantization | None]:
    """The spec of the model in a directory, and how its matrices are stored unless as floats.

    Raises ModelError for a model or a quantization that is not read, ConfigError for options that
    do not go with a quantized checkpoint.
    """
    values = {**_read_values(directory), **config.hf_overrides}
    quantization = find_quantization(values)
    if quantization is not None and config.quantization != "auto":
        raise ConfigError(
            f"quantization is {config.quantization!r} and the checkpoint is quantized already "
            f"({quantization.method}); leave the option out, or use the original model"
        )
    is_dummy = config.load_format == "dummy"
    if quantization is not None and is_dummy and config.backend_in_use != "torch":
        raise ConfigError(
            f"load_format 'dummy' makes up floats and this config.json says {quantization.method}; "
            "use the original model's, with --quantization int4 or int8"
        )
    return build_spec(_of_floats(values), config.strict_config), quantization


def _of_floats(values: Mapping[str, Any]) -> dict[str, Any]:
    """The config without what it says of quantization, in its text model's section too."""
    plain = {key: value for key, value in values.items() if key not in QUANTIZATION_KEYS}
    nested = {key: plain[key] for key in SECTIONS if isinstance(plain.get(key), dict)}
    return plain | {key: _of_floats(section) for key, section in nested.items()}


def _read_values(directory: Path) -> dict[str, Any]:
    """config.json, with what older writers put into a file of its own; GGUF in the same words."""
    if directory.suffix == SUFFIX:
        from quire.weights.gguf.config import gguf_config  # here: few checkpoints need it
        from quire.weights.gguf.model import open_gguf

        return gguf_config(open_gguf(directory))
    values = read_json(directory / "config.json")
    if any(values.get(key) for key in QUANTIZATION_KEYS):
        return values
    for section in filter(None, map(values.get, SECTIONS)):
        for key in QUANTIZATION_KEYS:
            if isinstance(section, dict) and section.get(key):
                return {**values, key: section[key]}
    for name, method in QUANTIZATION_FILES.items():
        if (directory / name).is_file():
            found = {"quant_method": method, **read_json(directory / name)}
            return {**values, "quantization_config": found}
    return values


def _open(config: EngineConfig, spec: ModelSpec, directory: Path) -> Checkpoint:
    if config.load_format == "dummy":
        shapes = {name: weight.shape for name, weight in spec.weights().items()}
        name = spec.dtype if config.dtype == "auto" else config.dtype
        return DummyCheckpoint(shapes, STORED_AS.get(name, "BF16"), config.seed)
    return open_checkpoint(directory)


def tie_missing_head(spec: ModelSpec, checkpoint: Checkpoint) -> ModelSpec:
    """Some exports leave tie_word_embeddings out of the config; a missing head says the same."""
    if spec.tied or spec.head.bias is not None or spec.output != "logits":
        return spec
    heads = tuple(
        spelling.removesuffix("weight")
        for place in spec.head.weight.places
        for spelling in spellings(place.name)
    )
    if any(name.startswith(heads) for name in checkpoint.names):
        return spec
    logger.warning("the checkpoint has no %s; using the embedding table", spec.head.weight.name)
    return replace(spec, head=Linear(spec.embedding.weight))


def _refuse_unserved(config: EngineConfig, spec: ModelSpec) -> None:
    """What recurrent layers do not go with, before anything is loaded."""
    if spec.state_floats and config.speculative != "off":
        raise ConfigError(
            f"speculative {config.speculative!r}: this model has recurrent layers, whose state "
            "cannot take back a wrong guess; leave the option out"
        )


def _read_weights(
    config: EngineConfig,
    checkpoint: Checkpoint,
    spec: ModelSpec,
    quantization: Quantization | None,
    directory: Path,
    threads: int,
) -> LoadedWeights:
    """Every weight of the spec as it will be served; imports what only integers need, if so."""
    if isinstance(checkpoint, DummyCheckpoint) and config.backend_in_use == "torch":
        from quire.runtime.dummy_weights import dummy_weights

        return dummy_weights(checkpoint, spec, quantization, config.quantization)
    if quantization is not None:
        from quire.runtime.stored_weights import read_weights

        weights = read_weights(checkpoint, spec, quantization, directory, config.dtype)
    else:
        weights = load_weights(checkpoint, spec.weights(), unused=spec.unused)
    if config.quantization != "auto":
        from quire.runtime.quantize import quantize_weights

        kept = None if config.load_format == "dummy" else directory
        cuts = config.backend_in_use != "torch"
        weights = quantize_weights(weights, spec, config.quantization, kept, threads, cuts)
    return _in_dtype(weights, config.dtype)


def _in_dtype(weights: LoadedWeights, dtype: str) -> LoadedWeights:
    """The floats in another format where the user asked for one; else as they are, in place."""
    if dtype == "auto":
        return weights
    return {name: _convert(name, weight, dtype) for name, weight in weights.items()}


def _convert(name: str, weight: StoredWeight, dtype: str) -> StoredWeight:
    stored_as = STORED_AS[dtype]
    if weight.dtype == stored_as or isinstance(weight, PackedMatrix):
        return weight
    return RawTensor(name, stored_as, weight.shape, from_float32(weight.float32(), dtype))
