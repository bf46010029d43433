"""Puts images into a prompt: where their rows go, and at which positions its tokens stand.

Source: arXiv:2409.12191 (M-RoPE).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from quire.errors import RequestError
from quire.vision.image import Image

__all__ = ["PlacedImage", "PromptImages", "place_images"]

Int32: TypeAlias = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class PlacedImage:
    """An image, whose rows take the places of the tokens start .. end - 1 of a prompt."""

    start: int
    image: Image

    @property
    def end(self) -> int:
        """The first token behind it."""
        return self.start + self.image.num_tokens


@dataclass(frozen=True, slots=True)
class PromptImages:
    """The images of one prompt.

    axis_positions: [prompt, 3], time, row and column of each token: three times the same for text,
    which goes on behind the greatest of those of an image.  shift: what is added to the positions
    of all tokens behind the prompt.
    """

    placed: tuple[PlacedImage, ...]
    axis_positions: Int32
    shift: int

    def positions(self, start: int, end: int) -> Int32:
        """[end - start, 3]: time, row and column of the tokens start .. end - 1."""
        known = self.axis_positions[start:end]
        behind = np.arange(start + len(known), end, dtype=np.int32) + np.int32(self.shift)
        return np.concatenate([known, np.repeat(behind[:, None], 3, axis=1)])

    def between(self, start: int, end: int) -> list[PlacedImage]:
        """The images that have one of the tokens start .. end - 1."""
        return [each for each in self.placed if each.start < end and start < each.end]

    @property
    def contents(self) -> tuple[tuple[int, int, bytes], ...]:
        """Start, end and digest of each image."""
        return tuple((each.start, each.end, each.image.digest) for each in self.placed)


def place_images(
    tokens: Sequence[int], images: Sequence[Image], image_token: int
) -> tuple[list[int], PromptImages | None]:
    """The prompt with as many image tokens in place of each one as its image takes.

    None where there is no image; then image tokens are tokens like others.
    Raises RequestError where image tokens and images are not as many.
    """
    if not images:
        return list(tokens), None
    count = sum(token == image_token for token in tokens)
    if count != len(images):
        raise RequestError(
            f"the prompt has {count} places for images (token {image_token}) and {len(images)} "
            "images; text must not spell the placeholder out, and the chat template must write one "
            "for each image",
            "messages",
        )
    waiting = iter(images)
    spelled: list[int] = []
    placed: list[PlacedImage] = []
    for token in tokens:
        if token == image_token:
            placed.append(PlacedImage(len(spelled), next(waiting)))
        spelled += [token] * (placed[-1].image.num_tokens if token == image_token else 1)
    positions, following = _axis_positions(len(spelled), placed)
    return spelled, PromptImages(tuple(placed), positions, following - len(spelled))


def _axis_positions(length: int, placed: Sequence[PlacedImage]) -> tuple[Int32, int]:
    """Positions of all tokens, and that of the one behind them."""
    positions = np.empty((length, 3), np.int32)
    at = following = 0
    for each in placed:
        positions[at : each.start] = np.arange(following, following + each.start - at)[:, None]
        following += each.start - at
        positions[each.start : each.end] = each.image.token_places() + following
        following += max(each.image.rows, each.image.columns)
        at = each.end
    positions[at:] = np.arange(following, following + length - at)[:, None]
    return positions, following + length - at
