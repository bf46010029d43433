"""Writes a model as one GGUF file: integers of 4 and 8 bits keep their codes."""

from __future__ import annotations

from pathlib import Path

from quire.convert.stored_model import StoredModel
from quire.errors import ConfigError
from quire.text.gguf_vocabulary import gguf_vocabulary
from quire.weights.gguf.write_model import write_model

__all__ = ["GGUF_NAME", "write_gguf_file"]

GGUF_NAME = "model.gguf"


def write_gguf_file(model: StoredModel, path: Path, name: str) -> None:
    """Write a stored model and its tokenizer.  Raises ConfigError for what GGUF cannot hold."""
    vocabulary = gguf_vocabulary(model.directory, model.spec.vocab_size)
    try:
        write_model(path, model.spec, model, vocabulary, name)
    except ValueError as error:
        raise ConfigError(f"GGUF cannot hold this model: {error}") from error
