"""Scales a picture to whole patches and cuts it into the rows that a vision tower reads.

Source: arXiv:2409.12191 and the Qwen2VLImageProcessor of transformers.
"""

from __future__ import annotations

import math
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from quire.errors import RequestError
from quire.vision.image import Image
from quire.vision.image_rules import ImageRules

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

__all__ = ["cut", "scaled_size"]

Float32: TypeAlias = npt.NDArray[np.float32]

MOST_STRETCHED = 200
"""Sides may differ by this factor."""


def scaled_size(height: int, width: int, rules: ImageRules) -> tuple[int, int]:
    """Height and width as multiples of the step, near the picture's shape and within the bounds.

    Raises RequestError for a picture that is far longer than wide.
    """
    step, low, high = rules.step, rules.min_pixels, rules.max_pixels
    if max(height, width) > MOST_STRETCHED * min(height, width):
        raise RequestError(
            f"an image is {width} x {height} pixels; its sides may differ by a factor of "
            f"{MOST_STRETCHED}: cut it into parts",
            "messages",
        )
    rows, columns = round(height / step), round(width / step)
    if rows * columns * step * step > high:
        shrink = math.sqrt(height * width / high)
        rows = max(1, math.floor(height / shrink / step))
        columns = max(1, math.floor(width / shrink / step))
    elif rows * columns * step * step < low:
        stretch = math.sqrt(low / (height * width))
        rows = math.ceil(height * stretch / step)
        columns = math.ceil(width * stretch / step)
    return rows * step, columns * step


def cut(picture: Picture, rules: ImageRules) -> Image:
    """The patches of an RGB picture, those of one token side by side, tokens row by row."""
    height, width = scaled_size(picture.height, picture.width, rules)
    scaled = np.asarray(picture.resize((width, height), resample=3), np.float64)  # bicubic
    mean, std = np.array(rules.mean, np.float32), np.array(rules.std, np.float32)
    values: Float32 = ((scaled * (1 / 255)).astype(np.float32) - mean) / std
    patch, merge, frames = rules.patch, rules.merge, rules.frames
    rows, columns = height // rules.step, width // rules.step
    cells = values.reshape(rows, merge, patch, columns, merge, patch, 3)
    cells = cells.transpose(0, 3, 1, 4, 6, 2, 5)  # token row and column, patch of it, channel
    still = np.repeat(cells[:, :, :, :, :, None], frames, axis=5)
    patches = np.ascontiguousarray(still.reshape(rows * columns * merge * merge, -1))
    return Image(patches, rows, columns, merge, _digest(patches, rows, columns))


def _digest(patches: Float32, rows: int, columns: int) -> bytes:
    """What tells an image from every other one that looks different to the tower."""
    digest = blake2b(f"{rows}x{columns}".encode(), digest_size=32)
    digest.update(patches.data)
    return digest.digest()
