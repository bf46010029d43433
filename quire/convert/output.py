"""Writes a checkpoint directory as Hugging Face has it: shards, index, config.json, tokenizer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quire.convert.safetensors_file import replace_file, write_safetensors
from quire.weights.tensor import RawTensor

__all__ = ["CheckpointWriter"]

COMPANIONS = (
    "tokenizer.json",
    "tokenizer.model",
    "tiktoken.model",
    "qwen.tiktoken",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "chat_template.json",
    "chat_template.jinja",
    "modules.json",
    "LICENSE",
)
"""What is copied as it is, where it is there."""

MODULE_SETTINGS = "[0-9]*_*/config.json"
"""Of the folders that modules.json names, such as 1_Pooling."""


class CheckpointWriter:
    """Writes one checkpoint of a known number of shards."""

    def __init__(self, directory: Path, shards: int) -> None:
        self._directory = directory
        self._shards = shards

    def write_shard(self, number: int, tensors: Sequence[RawTensor]) -> int:
        """Write shard `number`, from 0; its tensors' bytes.  Nothing is written for no tensors."""
        if tensors:
            write_safetensors(self._directory / self._name(number), tensors)
        return sum(tensor.nbytes for tensor in tensors)

    def write_rest(
        self, config: Mapping[str, Any], source: Path, records: Sequence[Mapping[str, Any]]
    ) -> None:
        """Write the index, config.json, and the files that go with any checkpoint of the model."""
        places = {
            name: self._name(number)
            for number, record in enumerate(records)
            for name in record["tensors"]
        }
        size = sum(record["bytes"] for record in records)
        index = {"metadata": {"total_size": size}, "weight_map": places}
        replace_file(self._directory / "model.safetensors.index.json", _json(index))
        replace_file(self._directory / "config.json", _json(config))
        for name in COMPANIONS:
            if (source / name).is_file():
                shutil.copyfile(source / name, self._directory / name)
        for settings in source.glob(MODULE_SETTINGS):
            folder = self._directory / settings.parent.name
            folder.mkdir(exist_ok=True)
            shutil.copyfile(settings, folder / settings.name)

    def _name(self, number: int) -> str:
        return f"model-{number + 1:05d}-of-{self._shards:05d}.safetensors"


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
