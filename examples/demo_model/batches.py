"""Turn the corpus into an endless, seeded mixture of token rows."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer

from .corpus import load_corpus

END_OF_TEXT_ID = 0
MIXTURE = {"en": 0.52, "zh": 0.20, "en_chat": 0.12, "zh_chat": 0.16}
STREAMS_WITH_LONG_DOCUMENTS = ("en",)


def encode_streams(work: Path, tokenizer: Tokenizer) -> dict[str, list[list[int]]]:
    """Every document of every stream as token ids that end with the end-of-text token."""
    streams = {}
    for name, texts in load_corpus(work).items():
        encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        streams[name] = [[*item.ids, END_OF_TEXT_ID] for item in encoded]
    return streams


def packed_rows(
    documents: list[list[int]], length: int, rng: random.Random, keep_tail: bool
) -> Iterator[list[int]]:
    """Pack shuffled documents into rows of `length`, for ever.

    A row that overflows hands its tail to the next row when `keep_tail`; otherwise the tail is
    dropped and every row starts with a document.
    """
    row: list[int] = []
    while True:
        for index in rng.sample(range(len(documents)), len(documents)):
            row += documents[index]
            while len(row) >= length:
                yield row[:length]
                row = row[length - 1 :] if keep_tail else []


class Mixture:
    """Draws batches whose rows come from the streams in fixed proportions."""

    def __init__(self, streams: dict[str, list[list[int]]], seed: int) -> None:
        self.streams = streams
        self.rng = random.Random(seed)
        self.rows: dict[tuple[str, int], Iterator[list[int]]] = {}

    def batch(self, rows: int, length: int) -> torch.Tensor:
        """`rows` rows of `length` + 1 tokens, inputs and shifted targets in one tensor."""
        names = self.rng.choices(list(MIXTURE), weights=list(MIXTURE.values()), k=rows)
        return torch.tensor([next(self._stream(name, length + 1)) for name in names])

    def _stream(self, name: str, length: int) -> Iterator[list[int]]:
        key = (name, length)
        if key not in self.rows:
            keep_tail = name in STREAMS_WITH_LONG_DOCUMENTS
            self.rows[key] = packed_rows(self.streams[name], length, self.rng, keep_tail)
        return self.rows[key]
