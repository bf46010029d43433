"""Lists and reads the metadata and tensors of one GGUF file in place, trusting nothing in it.

Layout: magic, version, counts of tensors and of metadata; the metadata, key and typed value; the
tensors' names, shapes, types and places; padding; the tensors' bytes.  All little-endian.
Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.errors import CheckpointError
from quire.quant.gguf_blocks.types import tensor_type
from quire.weights.mapped_file import map_file

__all__ = ["GgufFile", "GgufTensor", "Strings"]

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT, MAX_ALIGNMENT = 32, 1 << 20
MAX_AXES = 4
STRING, ARRAY, BOOL = 8, 9, 7
SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""Type of a metadata value → its code in `struct`; strings and arrays are the other types."""


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where one tensor is and what it is; shape in C order, rows of whole blocks."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Strings:
    """An array of strings in the file, decoded anew each time that it is read through.

    Raises CheckpointError for one that is not UTF-8.
    """

    def __init__(self, origin: str, data: memoryview, count: int) -> None:
        self._origin, self._data, self._count = origin, data, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        data, unpack, at = bytes(self._data), struct.Struct("<Q").unpack_from, 0
        try:
            while at < len(data):
                begin = at + 8
                at = begin + unpack(data, at)[0]
                yield data[begin:at].decode()
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self._origin}: a string is not UTF-8: {error}") from error


class GgufFile:
    """The metadata and tensors of one file; one that could be opened can be read to its end.

    metadata: key → bool, int, float, str, an array of numbers, or `Strings`.  tensors: by name, in
    the file's order.  Raises CheckpointError, naming the file and the fault.
    """

    def __init__(self, path: str | Path) -> None:
        self.origin = str(path)
        self._raw = map_file(Path(path))
        try:
            reader = _Reader(self.origin, self._raw.data)
            num_tensors, num_values = _counts(reader)
            self.metadata = _metadata(reader, num_values)
            entries = [_entry(reader) for _ in range(num_tensors)]
            start = _data_start(reader, self.metadata)
            self.tensors = _place(entries, start, len(self._raw), _alignment(self.metadata))
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error

    def raw(self, tensor: GgufTensor) -> npt.NDArray[np.uint8]:
        """The bytes of one of the file's tensors, [bytes]: a view of the file."""
        return self._raw[tensor.begin : tensor.end]


class _Reader:
    """Reads forward through bytes; ValueError instead of a step past the end."""

    def __init__(self, origin: str, data: memoryview) -> None:
        self.origin, self._data, self.at = origin, data, 0

    def take(self, size: int) -> memoryview:
        if size > len(self._data) - self.at:
            raise ValueError(
                f"the file ends at byte {len(self._data)}, inside its header; download it again"
            )
        self.at += size
        return self._data[self.at - size : self.at]

    def number(self, code: str) -> Any:
        size = struct.calcsize("<" + code)
        return struct.unpack("<" + code, self.take(size))[0]

    def text(self) -> str:
        return str(self.take(self.number("Q")), "utf-8")

    def strings(self, count: int) -> Strings:
        """An array of strings, skipped for now."""
        begin, data, size = self.at, self._data, len(self._data)
        at, unpack = begin, struct.Struct("<Q").unpack_from
        try:
            for _ in range(count):
                at += 8 + unpack(data, at)[0]
        except (struct.error, OverflowError):  # of a length that no memory has
            at = size + 1
        taken = self.take(at - begin)
        return Strings(self.origin, taken, count)

    def value(self) -> Any:
        kind = self.number("I")
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            return self._array()
        return self.number(_scalar(kind))

    def _array(self) -> Any:
        kind, count = self.number("I"), self.number("Q")
        if kind == STRING:
            return self.strings(count)
        if kind == ARRAY:
            raise ValueError("an array of arrays, which is not read, is in its metadata")
        dtype = np.dtype("<" + _scalar(kind))
        return np.frombuffer(self.take(count * dtype.itemsize), dtype)


def _scalar(kind: int) -> str:
    if kind not in SCALARS:
        raise ValueError(f"a metadata value has the type {kind}, which is unknown")
    return SCALARS[kind]


def _counts(reader: _Reader) -> tuple[int, int]:
    """Check the magic and the version; return the numbers of tensors and of metadata values."""
    magic = bytes(reader.take(4))
    if magic != MAGIC:
        raise ValueError(f"not a GGUF file: it begins with {magic!r}")
    version = reader.number("I")
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        what = "big-endian GGUF" if swapped in (1, *VERSIONS) else f"GGUF version {version}"
        raise ValueError(f"{what} is not read, only little-endian versions 2 and 3; convert again")
    return reader.number("Q"), reader.number("Q")


def _metadata(reader: _Reader, count: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for _ in range(count):
        key = reader.text()
        if key in values:
            raise ValueError(f"two metadata values have the key {key!r:.200}")
        values[key] = reader.value()
    return values


def _alignment(metadata: dict[str, Any]) -> int:
    value = metadata.get("general.alignment", ALIGNMENT)
    if type(value) is not int or not 0 < value <= MAX_ALIGNMENT or value & (value - 1):
        raise ValueError(f"general.alignment is {value!r:.80}, not a power of two")
    return value


def _data_start(reader: _Reader, metadata: dict[str, Any]) -> int:
    return reader.at + -reader.at % _alignment(metadata)


def _entry(reader: _Reader) -> GgufTensor:
    """One tensor's entry by itself; its place counts from the start of all tensors' bytes."""
    name, num_axes = reader.text(), reader.number("I")
    if not 1 <= num_axes <= MAX_AXES:
        raise ValueError(f"tensor {name!r:.200} has {num_axes} axes, not 1 to {MAX_AXES}")
    shape = tuple(reader.number("Q") for _ in range(num_axes))[::-1]
    try:
        kind = tensor_type(reader.number("I"))
    except ValueError as error:
        raise ValueError(f"tensor {name!r:.200} {error}") from error
    begin = reader.number("Q")
    if 0 in shape or shape[-1] % kind.columns:
        raise ValueError(
            f"tensor {name!r:.200} has the shape {list(shape)}, which blocks of {kind.columns} "
            f"columns, as {kind.name} has, do not fill"
        )
    nbytes = math.prod(shape) // kind.columns * kind.nbytes
    return GgufTensor(name, kind.name, shape, begin, begin + nbytes)


def _place(
    entries: list[GgufTensor], start: int, file_size: int, alignment: int
) -> dict[str, GgufTensor]:
    """Check that tensors are aligned, apart and inside the file, and make their places absolute."""
    placed: dict[str, GgufTensor] = {}
    for each in entries:
        if each.name in placed:
            raise ValueError(f"two tensors have the name {each.name!r:.200}")
        if each.begin % alignment:
            raise ValueError(f"tensor {each.name!r:.200} is not aligned to {alignment} bytes")
        if start + each.end > file_size:
            raise ValueError(
                f"tensor {each.name!r:.200} ends at byte {start + each.end} and the file has "
                f"{file_size}; download it again"
            )
        begin, end = start + each.begin, start + each.end
        placed[each.name] = GgufTensor(each.name, each.dtype, each.shape, begin, end)
    in_order = sorted(placed.values(), key=lambda each: each.begin)
    for before, after in itertools.pairwise(in_order):
        if after.begin < before.end:
            raise ValueError(f"tensors {before.name!r:.200} and {after.name!r:.200} overlap")
    return placed
