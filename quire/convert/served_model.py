"""A model with the kernels that serve, asked for the logits of whole texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from quire.config import EngineConfig
from quire.ops.batch import Batch
from quire.runtime.load import load_model
from quire.text.tokenizer import Tokenizer, load_tokenizer

__all__ = ["ServedModel"]

Float32 = npt.NDArray[np.float32]

PIECE = 128
"""Tokens computed at a time: bounds the memory of their logits."""


class ServedModel:
    """One bound model; texts of at most `window` tokens, one after another."""

    def __init__(self, config: EngineConfig, window: int) -> None:
        small = replace(
            config,
            max_model_len=window,
            max_num_seqs=1,
            max_num_batched_tokens=min(PIECE, window),
            enable_prefix_caching=False,
        )
        self._model = load_model(small)
        self.name = config.model
        self.vocab_size = self._model.spec.vocab_size
        self.summary = self._model.executable.summary
        self._piece = min(PIECE, window)

    def tokenizer(self) -> Tokenizer:
        """The model's own tokenizer."""
        return load_tokenizer(self._model.directory)

    def logits(self, tokens: Sequence[int]) -> Iterator[Float32]:
        """The logits of every token of a text, [n, V] for each piece of it, in order."""
        model = self._model
        blocks = np.arange(-(-len(tokens) // model.memory.block_tokens), dtype=np.int32).tolist()
        row = model.ropes.take(model.ropes.rope_class(len(tokens)))
        try:
            for start in range(0, len(tokens), self._piece):
                piece = tokens[start : start + self._piece]
                batch = Batch.single(piece, start, blocks, model.ropes.arrays)
                rows = np.full(len(piece), row, np.int32)
                yield model.executable.logits(replace(batch, rope_rows=rows))
        finally:
            model.ropes.release(row)
