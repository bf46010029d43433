"""Pictures come as data: URIs, in three formats, and bad ones are refused with the fault named."""

from __future__ import annotations

import base64
import contextlib
import io
import struct
import sys
import zlib
from typing import Any

import numpy as np
import pytest

from quire.errors import RequestError
from quire.vision.decoding import read_picture
from tests.vision.checkpoints import picture

pillow = pytest.importorskip("PIL.Image")


def encoded(image: Any, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def uri(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64," + base64.b64encode(data).decode()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_each_format(kind: str) -> None:
    image = picture(30, 20)
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(image, kind, **options)
    found = np.asarray(read_picture(uri(data, f"image/{kind.lower()}")))
    assert np.array_equal(found, np.asarray(pillow.open(io.BytesIO(data)).convert("RGB")))
    assert np.array_equal(found, np.asarray(read_picture(data)))
    if kind != "JPEG":
        assert np.array_equal(found, np.asarray(image))
        assert np.array_equal(found, np.asarray(read_picture(image)))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    found = read_picture(encoded(picture(8, 8).convert(mode)))
    assert (found.mode, found.size) == ("RGB", (8, 8))


def test_a_picture_stands_as_its_camera_was_held() -> None:
    exif = pillow.Exif()
    exif[0x0112] = 6
    assert read_picture(encoded(picture(30, 20), "JPEG", exif=exif)).size == (20, 30)


def png(width: int, height: int) -> bytes:
    """The beginning of a picture that says it is large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1 << 20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels)


WHOLE = encoded(picture(64, 48)) if "PIL" in sys.modules else b""


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("https://example.com/cat.png", "fetches nothing"),
        ("http://169.254.169.254/latest", "fetches nothing"),
        ("file:///etc/passwd", "fetches nothing"),
        ("/etc/passwd", "data:image/png;base64"),
        ("data:image/png,plain", "data:image/png;base64"),
        ("data:image/png;base64,????", "base64"),
        ("data:image/png;base64,AAA", "base64"),
        (uri(b""), "damaged"),
        (uri(b"GIF89a"), "PNG, JPEG, WEBP"),
        (uri(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"), "PNG, JPEG, WEBP"),
        (uri(WHOLE[:200]), "damaged"),
        (uri(WHOLE[:40] + bytes(60) + WHOLE[100:]), "damaged"),
        (uri(png(20000, 20000)), "pixels"),
        (uri(png(9000, 9000)), "pixels"),
        (5, "int"),
        (None, "NoneType"),
    ],
)
def test_what_is_refused(source: Any, fault: str) -> None:
    with pytest.raises(RequestError, match=fault) as caught:
        read_picture(source)
    assert caught.value.param == "messages"
    assert len(str(caught.value)) < 300


def test_no_damage_raises_anything_else() -> None:
    """Each file is damaged somewhere; some can still be read."""
    random = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "WEBP"):
        data = encoded(picture(24, 24), kind)
        for _ in range(60):
            damaged = bytearray(data)
            for place in random.integers(0, len(data), 3):
                damaged[place] = random.integers(256)
            with contextlib.suppress(RequestError):
                read_picture(bytes(damaged[: random.integers(1, len(data) + 1)]))


def test_without_pillow_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(RequestError, match=r"pip install 'quire\[vision\]'"):
        read_picture(b"")
