"""Writes a safetensors file tensor by tensor, as they are made.

    the header's length, 8 bytes | the header, filled up with spaces | the bytes of the tensors

The header says how large every tensor is, which may not be known before the last one: room for
it is left in front.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

__all__ = ["SafetensorsWriter"]

ALIGNMENT = 64
HEADER_BYTES = 512
"""More than is said of a tensor, in its entry and in the metadata, beside its name twice."""


class SafetensorsWriter:
    """A file being written.

    names: of all tensors that will be added.
    """

    def __init__(self, file: BinaryIO, names: Iterable[str]) -> None:
        room = HEADER_BYTES + sum(HEADER_BYTES + 2 * len(name.encode()) for name in names)
        self._room = room + -(room + 8) % ALIGNMENT
        self._file = file
        self._entries: dict[str, object] = {}
        self._at = 0
        file.seek(8 + self._room)

    def add(
        self, name: str, dtype: str, shape: Sequence[int], arrays: Iterable[npt.NDArray[np.generic]]
    ) -> None:
        """Write a tensor, whose bytes are those of all arrays together."""
        start = self._at
        for array in arrays:
            self._file.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
            self._at += array.nbytes
        offsets = [start, self._at]
        self._entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Write the header, and wait until everything is on the disk."""
        text = json.dumps({"__metadata__": dict(metadata), **self._entries}).encode()
        assert len(text) <= self._room, "a header of more bytes than its names can need"
        self._file.seek(0)
        self._file.write(self._room.to_bytes(8, "little") + text.ljust(self._room))
        self._file.flush()
        os.fsync(self._file.fileno())
