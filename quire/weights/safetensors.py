"""Lists and reads the tensors of one safetensors file in place, trusting nothing in it.

Layout: 8 bytes little-endian header size N, N bytes of JSON, then the tensors' bytes, which
fill the rest of the file without gap or overlap.
Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from quire.errors import CheckpointError
from quire.weights.mapped_file import map_file
from quire.weights.strict_json import parse_json
from quire.weights.tensor import RawTensor, nbytes_of

__all__ = ["SafetensorsFile"]

MAX_HEADER_BYTES = 100_000_000  # the reference implementation's limit


class SafetensorsFile:
    """The tensors of one file; a file that could be opened can be read to its last byte.

    names: in the order of their bytes.  metadata: the header's strings, often {"format": "pt"}.
    Raises CheckpointError, naming the file and the fault, for anything the format forbids.
    """

    def __init__(self, path: str | Path) -> None:
        self.origin = str(path)
        self._raw = map_file(Path(path))
        try:
            header, start = _read_header(self._raw)
            self.metadata = _metadata(header.pop("__metadata__", None))
            places = [_place(name, entry) for name, entry in header.items()]
            self._places = _in_file_order(places, start, len(self._raw))
        except ValueError as error:
            raise CheckpointError(
                f"{path}: not a whole safetensors file: {error}; download it again"
            ) from error
        self.names = tuple(self._places)

    def has(self, name: str) -> bool:
        """Say whether the file holds this tensor."""
        return name in self._places

    def tensor(self, name: str) -> RawTensor:
        """Return a view of one tensor.

        Raises CheckpointError if the file has no tensor of that name.
        """
        place = self._places.get(name)
        if place is None:
            raise CheckpointError(f"{self.origin}: has no tensor {name!r:.200}")
        return RawTensor.from_bytes(
            name, place.dtype, place.shape, self._raw[place.begin : place.end]
        )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one tensor is: `begin` and `end` count bytes, at first from the header's end."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def _read_header(raw: npt.NDArray[np.uint8]) -> tuple[dict[str, Any], int]:
    """Return the header, and where the tensors' bytes start."""
    if len(raw) < 8:
        raise ValueError(f"it has {len(raw)} bytes and its header size alone takes 8")
    size = int.from_bytes(raw[:8].tobytes(), "little")
    if size > MAX_HEADER_BYTES:
        raise ValueError(f"its header claims {size} bytes, more than {MAX_HEADER_BYTES}")
    if size > len(raw) - 8:
        raise ValueError(f"its header needs {8 + size} bytes and the file has {len(raw)}")
    text = raw[8 : 8 + size].tobytes()
    if not text.startswith(b"{"):
        raise ValueError("its header does not start with '{'")
    header: dict[str, Any] = parse_json(text)
    return header, 8 + size


def _metadata(value: object) -> dict[str, str]:
    """Check the header's free-form strings; null is none of them."""
    if value is None:
        return {}
    if isinstance(value, dict) and all(isinstance(text, str) for text in value.values()):
        return value
    raise ValueError("its __metadata__ is not an object of strings")


def _place(name: str, entry: object) -> _Place:
    """Check one tensor's entry by itself."""
    if not isinstance(entry, dict):
        raise ValueError(f"tensor {name!r:.200} is not described by an object")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or not isinstance(shape, list):
        raise ValueError(f"tensor {name!r:.200} lacks a dtype or a shape")
    if not _is_range(offsets):
        raise ValueError(f"tensor {name!r:.200} lacks data_offsets [begin, end]")
    try:
        nbytes = nbytes_of(dtype, shape)
    except ValueError as error:
        raise ValueError(f"tensor {name!r:.200}: {error}") from error
    begin, end = offsets
    if end - begin != nbytes:
        raise ValueError(
            f"tensor {name!r:.200} of {dtype} {shape} takes {nbytes} bytes, "
            f"its data_offsets {offsets!r:.80} do not"
        )
    return _Place(name, dtype, tuple(shape), begin, end)


def _is_range(offsets: object) -> TypeGuard[list[int]]:
    """Say whether this is [begin, end] with 0 <= begin <= end, booleans not being numbers."""
    if not isinstance(offsets, list) or [type(offset) for offset in offsets] != [int, int]:
        return False
    return bool(0 <= offsets[0] <= offsets[1])


def _in_file_order(places: list[_Place], start: int, file_size: int) -> dict[str, _Place]:
    """Check that the tensors fill the file from `start` to its end, and make offsets absolute."""
    placed: dict[str, _Place] = {}
    at = start
    for place in sorted(places, key=lambda place: (place.begin, place.end)):
        begin, end = start + place.begin, start + place.end
        if begin != at:
            fault = "overlaps the tensor before it" if begin < at else "leaves a hole before it"
            raise ValueError(f"tensor {place.name!r:.200} {fault} at byte {min(begin, at)}")
        placed[place.name] = _Place(place.name, place.dtype, place.shape, begin, end)
        at = end
    if at != file_size:
        raise ValueError(f"its tensors end at byte {at} and the file has {file_size} bytes")
    return placed
