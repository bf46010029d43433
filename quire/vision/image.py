"""An image on its way through the engine: patches first, then rows beside the embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Image"]

Float32: TypeAlias = npt.NDArray[np.float32]
Int32: TypeAlias = npt.NDArray[np.int32]


@dataclass(slots=True, eq=False)
class Image:
    """What a tower reads of an image, and what it makes of it.

    patches: [rows * columns * merge^2, any] float32; those of one token stand side by side, tokens
    row by row.  rows, columns: of tokens.  digest: names its content.
    embeddings: [num_tokens, E], once the engine has computed them.
    """

    patches: Float32
    rows: int
    columns: int
    merge: int
    digest: bytes
    embeddings: Float32 | None = None

    @property
    def num_tokens(self) -> int:
        """How many tokens of a prompt it takes."""
        return self.rows * self.columns

    def token_places(self) -> Int32:
        """[num_tokens, 3]: time, row and column of each token within the image."""
        return _grid(self.rows, self.columns)

    def patch_places(self) -> Int32:
        """[patches, 3]: time, row and column of each patch within the image."""
        inner = _grid(self.merge, self.merge)
        places = self.token_places()[:, None] * self.merge + inner
        return np.ascontiguousarray(places.reshape(-1, 3), np.int32)


def _grid(rows: int, columns: int) -> Int32:
    """[rows * columns, 3]: 0, row and column."""
    places = np.zeros((rows, columns, 3), np.int32)
    places[:, :, 1] = np.arange(rows)[:, None]
    places[:, :, 2] = np.arange(columns)
    return places.reshape(-1, 3)
