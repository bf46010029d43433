"""Reads the images of a conversation, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from quire.server.engine_protocol import ServedEngine
from quire.server.protocol.chat import ChatMessage, ImageUrl
from quire.vision.image import Image

__all__ = ["read_images"]


async def read_images(engine: ServedEngine, messages: Sequence[ChatMessage]) -> list[Image]:
    """The images of all messages, in their order.

    Raises RequestError for a model that sees none, and for an image that cannot be read.
    """
    contents = (each.content for each in messages if isinstance(each.content, list))
    found = [part.image_url for content in contents for part in content]
    urls = [each.url if isinstance(each, ImageUrl) else each for each in found if each is not None]
    return await asyncio.to_thread(engine.images.read_all, urls) if urls else []
