"""Writes a model as one GGUF file: integers of 4 and 8 bits keep their codes."""

from __future__ import annotations

from pathlib import Path

from quire.convert.stored_model import StoredModel
from quire.errors import ConfigError
from quire.models.spec import ModelSpec
from quire.text.gguf_vocabulary import gguf_vocabulary
from quire.text.tokenizer import load_tokenizer
from quire.weights.gguf.write_model import check_writable, write_model

__all__ = ["GGUF_NAME", "check_gguf", "write_gguf_file"]

GGUF_NAME = "model.gguf"
SAMPLES = (
    "Hello, world! It's 1234.5, DON'T  stop\n\n  now\t",
    "你好，世界！ 今天 안녕 สวัสดี é ﬁ 😀",
    " def f(x):\n    return x+1",
)
"""Texts of many scripts, with runs of spaces."""


def check_gguf(spec: ModelSpec, directory: Path) -> None:
    """Refuse, before any work, a model or a tokenizer that GGUF has no words for.

    Raises ModelError or ConfigError.
    """
    check_writable(spec)
    gguf_vocabulary(directory, spec.vocab_size)


def write_gguf_file(model: StoredModel, path: Path, name: str) -> None:
    """Write a stored model and its tokenizer, which must cut texts as the directory's does.

    Raises ConfigError for what GGUF cannot hold.
    """
    vocabulary = gguf_vocabulary(model.directory, model.spec.vocab_size)
    try:
        write_model(path, model.spec, model, vocabulary, name)
    except ValueError as error:
        raise ConfigError(f"GGUF cannot hold this model: {error}") from error
    _check_tokenizer(model.directory, path)


def _check_tokenizer(directory: Path, path: Path) -> None:
    ours, theirs = load_tokenizer(path), load_tokenizer(directory)
    for text in SAMPLES:
        if ours.encode(text) != theirs.encode(text):
            path.unlink()
            raise ConfigError(
                f"GGUF cannot hold the tokenizer of {directory}: {text!r} would be other tokens"
            )
