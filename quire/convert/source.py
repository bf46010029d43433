"""The float model that a run starts from: its spec, its weights as stored, its tokenizer."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.config import EngineConfig
from quire.errors import ConfigError
from quire.models.config_reader import read_json
from quire.models.nested_config import IMAGE_PARTS
from quire.models.spec import Block, ModelSpec, Weight, parts
from quire.ops.number_formats import FORMAT_OF, from_float32
from quire.runtime.open_model import find_model, read_spec, tie_missing_head
from quire.text.tokenizer import Tokenizer, load_tokenizer
from quire.weights.checkpoint import Checkpoint, open_checkpoint
from quire.weights.loader import load_weights
from quire.weights.mapped_file import mapping_of
from quire.weights.tensor import RawTensor

__all__ = [
    "Source",
    "block_weights",
    "find_directory",
    "language_model",
    "open_source",
    "parts_beside",
    "shards_of",
    "tensors_beside",
]

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint of plain floats; weights are mapped and read when they are used.

    spec, weights: of the language model.  beside: a tower, and what else is written as it is.
    """

    directory: Path
    config: dict[str, Any]
    spec: ModelSpec
    weights: dict[str, RawTensor]
    tokenizer: Tokenizer
    beside: list[RawTensor] = field(default_factory=list)

    def floats(self, names: Iterable[str]) -> dict[str, Float32]:
        """Tensors as float32, in memory; the pages they were read from are given back."""
        found = {name: self.weights[name].float32() for name in names}
        for name in found:
            _drop_pages(self.weights[name].data)
        return found

    @property
    def num_bytes(self) -> int:
        """Of all tensors."""
        return sum(tensor.nbytes for tensor in (*self.weights.values(), *self.beside))

    def format_of(self, name: str) -> str:
        """The format that a tensor is stored in: float32, float16 or bfloat16."""
        return FORMAT_OF[self.weights[name].dtype]

    def stored(self, name: str, values: Float32) -> RawTensor:
        """Values in the format that the source has the tensor in."""
        dtype = self.weights[name].dtype
        return RawTensor(name, dtype, values.shape, from_float32(values, FORMAT_OF[dtype]))


def open_source(config: EngineConfig) -> Source:
    """Open a model.  Raises ConfigError for one that is quantized already."""
    directory = find_directory(config)
    values = {**read_json(directory / "config.json"), **config.hf_overrides}
    if values.get("quantization_config"):
        raise ConfigError(
            f"{config.model} is quantized already; give the original model, or use `quire convert` "
            "to write it in another format"
        )
    checkpoint = open_checkpoint(directory)
    spec = language_model(tie_missing_head(read_spec(config, directory), checkpoint))
    weights = load_weights(checkpoint, spec.weights(), unused=spec.unused)
    tokenizer_from = Path(config.tokenizer) if config.tokenizer else directory
    tokenizer = load_tokenizer(tokenizer_from)
    return Source(directory, values, spec, weights, tokenizer, tensors_beside(checkpoint, spec))


def find_directory(config: EngineConfig) -> Path:
    """The directory of a model.  Raises ConfigError for a GGUF file."""
    directory = find_model(config)
    if directory.is_file():
        raise ConfigError(
            f"{config.model} is a GGUF file, which is served and not written in other formats; "
            "give the directory of safetensors that it was made of"
        )
    return directory


def language_model(spec: ModelSpec) -> ModelSpec:
    """What is quantized of a model: towers, and layers that only guess ahead, stay beside it."""
    return replace(spec, vision=None, unused=(*spec.unused, *IMAGE_PARTS))


def tensors_beside(checkpoint: Checkpoint, spec: ModelSpec) -> list[RawTensor]:
    """The tensors that belong to the checkpoint and not to the language model, as they are."""
    names = sorted(name for name in checkpoint.names if name.startswith(spec.unused))
    return [checkpoint.tensor(name) for name in names]


def parts_beside(beside: Iterable[RawTensor], spec: ModelSpec) -> list[str]:
    """The parts that these tensors belong to, as "visual"; others put "model." before it or not."""
    names = [tensor.name for tensor in beside]
    found = [each for each in spec.unused if any(name.startswith(each) for name in names)]
    return sorted({each.removeprefix("model.").removesuffix(".") for each in found})


def _drop_pages(data: npt.NDArray[Any]) -> None:
    """Let the system forget a mapped file's pages, which it would else count as this process's."""
    pages = mapping_of(data)
    if pages is not None and hasattr(pages, "madvise"):
        pages.madvise(mmap.MADV_DONTNEED)


def block_weights(block: Block) -> tuple[str, ...]:
    """The names of all tensors of a block."""
    return tuple(dict.fromkeys(weight.name for weight in parts(block, Weight)))


def shards_of(spec: ModelSpec) -> list[tuple[str, ...]]:
    """The names of the weights that stand in a file together: the embedding, each block, the end.

    A tied head is none of its own.
    """
    end = [weight.name for weight in parts(spec.norm, Weight)]
    end += [] if spec.tied else [spec.head.weight.name]
    end += [spec.head.bias.name] if spec.head.bias is not None else []
    blocks = [block_weights(block) for block in spec.blocks]
    return [(spec.embedding.weight.name,), *blocks, tuple(end)]
