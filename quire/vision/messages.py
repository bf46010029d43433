"""Takes the images out of a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quire.errors import RequestError

__all__ = ["IMAGE_PART", "take_images"]

IMAGE_PART: Mapping[str, str] = {"type": "image"}
"""What chat templates write a placeholder for."""


def take_images(messages: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The messages with IMAGE_PART in place of each image, and the images in their order.

    An image is {"type": "image_url", "image_url": {"url": ...}}, as OpenAI has it, or
    {"type": "image", "image": ...} with anything that ImageReader.read takes.
    """
    images: list[Any] = []
    return [_without(message, images) for message in messages], images


def _without(message: Any, images: list[Any]) -> Any:
    content = message.get("content") if isinstance(message, Mapping) else None
    if isinstance(content, str) or not isinstance(content, Sequence):
        return message
    return {**message, "content": [_part(part, images) for part in content]}


def _part(part: Any, images: list[Any]) -> Any:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind not in ("image", "image_url"):
        return part
    image = part.get(kind)
    if isinstance(image, Mapping):
        image = image.get("url")
    if image is None:
        raise RequestError(f"a part of type {kind!r} holds no image under {kind!r}", "messages")
    images.append(image)
    return IMAGE_PART
