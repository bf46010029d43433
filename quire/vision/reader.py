"""Makes the images of a request ready for one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quire.errors import RequestError
from quire.vision.decoding import read_picture
from quire.vision.image import Image
from quire.vision.image_rules import ImageRules
from quire.vision.patches import cut
from quire.vision.prompt_images import PromptImages, place_images

__all__ = ["ImageReader"]

MOST_IMAGES = 32
"""In one request."""


class ImageReader:
    """Decodes, scales and places images; thread-safe, and slow enough to be called in a thread.

    max_patches: the most that the tower takes of one image.
    """

    def __init__(self, rules: ImageRules, image_token: int, max_patches: int) -> None:
        self._rules = rules
        self._image_token = image_token
        self._max_patches = max_patches

    def read_all(self, sources: Sequence[Any]) -> list[Image]:
        """The images of a request.  Raises RequestError as `read` does, and for too many."""
        if len(sources) > MOST_IMAGES:
            raise RequestError(
                f"the request has {len(sources)} images; at most {MOST_IMAGES} are taken: send "
                "fewer",
                "messages",
            )
        return [self.read(each) for each in sources]

    def read(self, source: Any) -> Image:
        """One image: a data: URI, the bytes of a file, or a picture of Pillow.

        Raises RequestError for one that cannot be read or does not fit.
        """
        image = cut(read_picture(source), self._rules)
        if len(image.patches) > self._max_patches:
            raise RequestError(
                f"an image takes {len(image.patches)} patches and the vision tower "
                f"{self._max_patches} at most: cut it into parts",
                "messages",
            )
        return image

    def place(
        self, tokens: Sequence[int], images: Sequence[Image]
    ) -> tuple[list[int], PromptImages | None]:
        """See place_images."""
        return place_images(tokens, images, self._image_token)
