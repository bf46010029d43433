"""Texts to calibrate and to measure with, as sequences of tokens.

A .jsonl file has on each line {"text": ...} or {"messages": [...]}, a conversation for the model's
chat template; any other file is one text.  Without files, the bilingual texts that ship with Quire
are taken: old prose and poems in English and Chinese, documentation, and code.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quire.convert.recipe import Quantization
from quire.convert.source import Source
from quire.errors import ConfigError
from quire.text.chat_template import load_chat_template
from quire.text.tokenizer import Tokenizer
from quire.vision.messages import take_images

__all__ = [
    "DEFAULT_TEXT",
    "Texts",
    "read_sequences",
    "read_texts_of",
    "spread",
    "start_token",
    "texts_of_run",
    "windows",
]

DEFAULT_TEXT = Path(__file__).with_name("calibration.jsonl")

Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Texts:
    """Sequences to calibrate on and to measure with."""

    calibration: list[Tokens]
    evaluation: list[Tokens]


def texts_of_run(source: Source, asked: Quantization) -> Texts:
    """A run's texts; without files to evaluate, every fourth sequence at most is held back.

    Raises ConfigError for files without text.
    """
    length = min(asked.sequence_length, source.spec.max_length)
    found = read_sequences(asked.calibration, source.tokenizer, length)
    if asked.evaluation:
        held = read_sequences(asked.evaluation, source.tokenizer, length)
        evaluation = [held[i] for i in spread(held, asked.evaluation_tokens)]
        rest = found
    else:
        most = min(asked.evaluation_tokens, sum(map(len, found)) // 4)
        chosen = set(spread(found, most))
        evaluation = [each for i, each in enumerate(found) if i in chosen]
        rest = [each for i, each in enumerate(found) if i not in chosen] or found
    calibration = [rest[i] for i in spread(rest, asked.calibration_tokens)]
    return Texts(calibration, [each for each in evaluation if len(each) > 1])


def read_sequences(paths: Sequence[str], tokenizer: Tokenizer, length: int) -> list[Tokens]:
    """All texts of the files, cut into sequences of `length` tokens.

    Texts of one file follow each other, an end-of-text token between them, and so begins every
    sequence.  Raises ConfigError for a file that is missing, empty or not in its format.
    """
    sequences: list[Tokens] = []
    for path in [Path(path) for path in paths] or [DEFAULT_TEXT]:
        start = start_token(tokenizer)
        tokens: list[int] = []
        for text in read_texts_of(path, tokenizer):
            tokens += [*([start] if tokens else []), *tokenizer.encode(text, False)]
        if not tokens:
            raise ConfigError(f"{path} holds no text; give a .txt or .jsonl file that does")
        sequences += windows(tokens, start, length)
    return sequences


def windows(tokens: Sequence[int], start: int, length: int) -> list[Tokens]:
    """Pieces of length - 1 tokens, each behind the token `start`; the last may be shorter."""
    cuts = range(0, len(tokens), length - 1)
    return [np.asarray([start, *tokens[cut : cut + length - 1]], np.int32) for cut in cuts]


def start_token(tokenizer: Tokenizer) -> int:
    """What a text begins with: the beginning-of-text token, or the end of the one before."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return token
    return 0


def spread(sequences: Sequence[Tokens], most_tokens: int) -> list[int]:
    """Indices of sequences at equal distances, as many as have `most_tokens` tokens together."""
    length = max(map(len, sequences), default=1)
    count = min(len(sequences), max(1, most_tokens // length))
    return sorted({i * len(sequences) // count for i in range(count)})


def read_texts_of(path: Path, tokenizer: Tokenizer) -> list[str]:
    """The texts of one file.  Raises ConfigError for a file that is not in its format."""
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as UTF-8 text: {error}") from error
    if path.suffix != ".jsonl":
        return [content] if content.strip() else []
    lines = [(i, line) for i, line in enumerate(content.splitlines(), 1) if line.strip()]
    return [_text_of(f"{path}, line {i}", line, tokenizer) for i, line in lines]


def _text_of(where: str, line: str, tokenizer: Tokenizer) -> str:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{where} is not JSON: {error}") from error
    if isinstance(entry, dict) and isinstance(entry.get("text"), str):
        return str(entry["text"])
    if isinstance(entry, dict) and isinstance(entry.get("messages"), list):
        messages, images = take_images(entry["messages"])
        if images:
            raise ConfigError(
                f"{where} has {len(images)} images, and text alone calibrates and measures; leave "
                "the line out, or its images"
            )
        template = load_chat_template(tokenizer, None)
        return template.render(messages, add_generation_prompt=False)
    raise ConfigError(f'{where} has neither a "text" nor a list of "messages"')
