"""Reads pictures from what a request holds; nothing is fetched from anywhere."""

from __future__ import annotations

import base64
import binascii
import io
import re
from typing import TYPE_CHECKING, Any

from quire.errors import RequestError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

__all__ = ["read_picture"]

FORMATS = ("PNG", "JPEG", "WEBP")
MOST_PIXELS = 64 * 1024 * 1024
"""Of a picture as it is sent: a file of a few kilobytes can unfold to gigabytes."""

DATA_URI = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(;[\w=.+-]+)*?;base64,", re.IGNORECASE)
CURE = "send it as data:image/png;base64,..."


def read_picture(source: Any) -> Picture:
    """The RGB picture in a data: URI, in the bytes of a file, or that Pillow has opened already.

    Raises RequestError for anything else, for a damaged file, and without Pillow.
    """
    pillow, operations = _pillow()
    if isinstance(source, pillow.Image):
        return _upright(source, operations)
    data = source if isinstance(source, bytes) else _data_of(source)
    try:
        with pillow.open(io.BytesIO(data), formats=FORMATS) as picture:
            _refuse_huge(picture)
            return _upright(picture, operations)
    except RequestError:
        raise
    except pillow.UnidentifiedImageError:
        raise RequestError(
            f"an image is not one of {', '.join(FORMATS)}, or its beginning is damaged", "messages"
        ) from None
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise RequestError(f"an image is damaged: {error}", "messages") from error


def _upright(picture: Any, operations: Any) -> Picture:
    """The picture as its camera says that it was held, in RGB."""
    _refuse_huge(picture)
    turned: Picture = operations.exif_transpose(picture).convert("RGB")
    return turned


def _refuse_huge(picture: Any) -> None:
    if picture.width * picture.height > MOST_PIXELS:
        raise RequestError(
            f"an image has {picture.width} x {picture.height} pixels; at most {MOST_PIXELS} are "
            "read: send it smaller",
            "messages",
        )


def _data_of(source: Any) -> bytes:
    if not isinstance(source, str):
        raise RequestError(f"an image is a {type(source).__name__}; {CURE}", "messages")
    found = DATA_URI.match(source)
    if found is None:
        shown = source[:60] + ("..." if len(source) > 60 else "")
        fetch = "; Quire fetches nothing from the network" if "://" in source[:12] else ""
        raise RequestError(f"image_url is {shown!r}{fetch}: {CURE}", "messages")
    try:
        return base64.b64decode(source[found.end() :], validate=True)
    except binascii.Error as error:
        raise RequestError(f"the base64 of an image is damaged: {error}", "messages") from None


def _pillow() -> tuple[Any, Any]:
    """Pillow, which is imported when a first image comes."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise RequestError(
            "images are decoded by Pillow, which is not installed: pip install 'quire[vision]'",
            "messages",
        ) from None
    return Image, ImageOps
