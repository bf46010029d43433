"""The float model that a run starts from: its spec, its weights as stored, its tokenizer."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.config import EngineConfig
from quire.errors import ConfigError
from quire.models.config_reader import read_json
from quire.models.spec import Block, ModelSpec, Weight
from quire.ops.number_formats import from_float32
from quire.runtime.open_model import find_model, read_spec, tie_missing_head
from quire.text.tokenizer import Tokenizer, load_tokenizer
from quire.weights.checkpoint import open_checkpoint
from quire.weights.loader import load_weights
from quire.weights.tensor import RawTensor

__all__ = ["Source", "block_weights", "find_directory", "open_source", "refuse_vision"]

Float32 = npt.NDArray[np.float32]
FORMATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint of plain floats; weights are mapped and read when they are used."""

    directory: Path
    config: dict[str, Any]
    spec: ModelSpec
    weights: dict[str, RawTensor]
    tokenizer: Tokenizer

    def floats(self, names: Iterable[str]) -> dict[str, Float32]:
        """Tensors as float32, in memory; the pages they were read from are given back."""
        found = {name: self.weights[name].float32() for name in names}
        for name in found:
            _drop_pages(self.weights[name].data)
        return found

    def format_of(self, name: str) -> str:
        """The format that a tensor is stored in: float32, float16 or bfloat16."""
        return FORMATS[self.weights[name].dtype]

    def stored(self, name: str, values: Float32) -> RawTensor:
        """Values in the format that the source has the tensor in."""
        dtype = self.weights[name].dtype
        return RawTensor(name, dtype, values.shape, from_float32(values, FORMATS[dtype]))


def open_source(config: EngineConfig) -> Source:
    """Open a model.  Raises ConfigError for one that is quantized already, or has other parts."""
    directory = find_directory(config)
    values = {**read_json(directory / "config.json"), **config.hf_overrides}
    if values.get("quantization_config"):
        raise ConfigError(
            f"{config.model} is quantized already; give the original model, or use `quire convert` "
            "to write it in another format"
        )
    checkpoint = open_checkpoint(directory)
    spec = tie_missing_head(read_spec(config, directory), checkpoint)
    refuse_vision(spec)
    weights = load_weights(checkpoint, spec.weights())
    tokenizer_from = Path(config.tokenizer) if config.tokenizer else directory
    return Source(directory, values, spec, weights, load_tokenizer(tokenizer_from))


def find_directory(config: EngineConfig) -> Path:
    """The directory of a model.  Raises ConfigError for a GGUF file."""
    directory = find_model(config)
    if directory.is_file():
        raise ConfigError(
            f"{config.model} is a GGUF file, which is served and not written in other formats; "
            "give the directory of safetensors that it was made of"
        )
    return directory


def refuse_vision(spec: ModelSpec) -> None:
    """Raise ConfigError for a model that sees: its tower would be missing from what is written."""
    if spec.vision is not None:
        raise ConfigError(
            f"{spec.architecture} has a vision tower, which is not written to checkpoints yet; let "
            "`--quantization int8` or `int4` round the language model while it is loaded"
        )


def _drop_pages(data: npt.NDArray[Any]) -> None:
    """Let the system forget a mapped file's pages, which it would else count as this process's."""
    owner: Any = data
    while isinstance(owner, np.ndarray | memoryview):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    if isinstance(owner, mmap.mmap) and hasattr(owner, "madvise"):
        owner.madvise(mmap.MADV_DONTNEED)


def block_weights(block: Block) -> tuple[str, ...]:
    """The names of all tensors of a block."""
    found: list[str] = []
    _walk(block, found)
    return tuple(dict.fromkeys(found))


def _walk(part: Any, found: list[str]) -> None:
    """Collect weights from a spec's value and the values inside it."""

    if isinstance(part, Weight):
        found.append(part.name)
    elif isinstance(part, tuple):
        for each in part:
            _walk(each, found)
    elif is_dataclass(part):
        for each in fields(part):
            _walk(getattr(part, each.name), found)
