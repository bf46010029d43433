"""Writes GGUF containers, version 3, tensor by tensor: no more than one stands in memory."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.quant.gguf_blocks.types import NUMBERS
from quire.weights.gguf.container import ALIGNMENT, ARRAY, MAGIC, SCALARS, STRING

__all__ = ["Value", "write_gguf"]

VERSION = 3
Bytes = npt.NDArray[np.uint8]
Value = bool | int | float | str | Sequence[str] | npt.NDArray[Any]
TYPE_OF = {code: number for number, code in SCALARS.items()}
DTYPE_CODES = {np.dtype("<" + code): number for number, code in SCALARS.items()}


def write_gguf(
    path: Path,
    metadata: Mapping[str, Value],
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], tuple[str, Bytes]],
) -> None:
    """Write a file; it gets its name when it is whole.

    metadata: integers become 32 bits where they fit, floats float32.  shapes: tensor → shape in C
    order.  read: tensor → its type's name and its bytes, asked for once each, in this order.
    Raises OSError where it cannot be written.
    """
    head = struct.pack("<4sIQQ", MAGIC, VERSION, len(shapes), len(metadata))
    head += b"".join(_text(key) + _value(value) for key, value in metadata.items())
    size = len(head) + len(b"".join(_entries(shapes, [("F32", 0)] * len(shapes))))
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.seek(size + -size % ALIGNMENT)
            places, at = [], 0
            for name in shapes:
                dtype, data = read(name)
                places.append((dtype, at))
                file.write(np.ascontiguousarray(data).data)
                file.write(bytes(-data.nbytes % ALIGNMENT))
                at += data.nbytes + -data.nbytes % ALIGNMENT
            file.seek(0)
            file.write(head + b"".join(_entries(shapes, places)))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _entries(
    shapes: Mapping[str, tuple[int, ...]], places: Sequence[tuple[str, int]]
) -> Iterator[bytes]:
    """The descriptions of the tensors; their lengths depend on names and shapes alone."""
    for (name, shape), (dtype, offset) in zip(shapes.items(), places, strict=True):
        axes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
        yield _text(name) + axes + struct.pack("<IQ", NUMBERS[dtype], offset)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Value) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _text(value)
    if isinstance(value, np.ndarray):
        head = struct.pack("<IIQ", ARRAY, DTYPE_CODES[value.dtype.newbyteorder("<")], len(value))
        return head + value.tobytes()
    if isinstance(value, Sequence):
        return struct.pack("<IIQ", ARRAY, STRING, len(value)) + b"".join(map(_text, value))
    code = _code(value)
    return struct.pack("<I" + code, TYPE_OF[code], value)


def _code(value: float) -> str:
    """The type of a single number."""
    if isinstance(value, bool):
        return "?"
    if isinstance(value, int):
        return "I" if 0 <= value < 2**32 else "i" if -(2**31) <= value < 0 else "q"
    assert math.isfinite(value)
    return "f"
