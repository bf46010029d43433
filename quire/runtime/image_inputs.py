"""Adds to a step what its requests' images bring: rows for their tokens, and positions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from quire.control.plan import Chunk
from quire.ops.batch import Batch
from quire.vision.image import Image
from quire.vision.prompt_images import PromptImages

__all__ = ["Encode", "with_images"]

Encode: TypeAlias = Callable[[Image], npt.NDArray[np.float32]]
"""The rows of an image, [num_tokens, E]; computed when they are first asked for."""


def with_images(
    batch: Batch,
    chunks: Sequence[Chunk],
    images: Iterable[tuple[int, PromptImages]],
    encode: Encode,
) -> Batch:
    """The batch with image tokens numbered as given rows, in place, and with positions of all.

    images: those of a chunk, by the place of the chunk.
    """
    positions = np.repeat(batch.positions[:, None], 3, axis=1)
    given: list[npt.NDArray[np.float32]] = []
    num_given = 0
    for place, of_prompt in images:
        chunk, first = chunks[place], int(batch.query_start[place])
        start, end = chunk.start, chunk.start + len(chunk.tokens)
        positions[first : first + end - start] = of_prompt.positions(start, end)
        for placed in of_prompt.between(start, end):
            low, high = max(start, placed.start), min(end, placed.end)
            given.append(encode(placed.image)[low - placed.start : high - placed.start])
            numbers = np.arange(num_given, num_given + high - low, dtype=np.int32)
            batch.token_ids[first + low - start : first + high - start] = -1 - numbers
            num_given += high - low
    rows = np.concatenate(given) if given else None
    return replace(batch, axis_positions=positions, given_rows=rows)
