"""Reads the tensors of a `torch.save` file in place: no torch, and no code from the pickle.

Two containers: since 1.6 a zip archive of stored (not compressed) entries, `data.pkl` and one
`data/<key>` for each storage; before it a row of pickles, then each storage's bytes.  The pickle
describes every tensor as a strided window of a storage.
Source: `torch/serialization.py` of torch 2.13.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quire.errors import CheckpointError
from quire.weights.mapped_file import map_file
from quire.weights.pickle_data import Refused, read_pickle
from quire.weights.tensor import DTYPES, RawTensor, nbytes_of
from quire.weights.torch_names import ALLOWED, Window, storage_of

__all__ = ["TorchPickleFile"]

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001
PICKLE_START = 0x80  # the instruction that opens pickles of protocol 2 and above
MAX_PICKLE_BYTES = 100_000_000
LOCAL_HEADER_BYTES = 30  # a zip entry's own header, before its name


class TorchPickleFile:
    """The tensors of one `.bin` file: a `state_dict` at its top level, entries of other kinds left.

    Raises CheckpointError, "refused: …", for a pickle that names anything but tensors and
    dictionaries, and for damaged or unusual files, naming the file and the fault.
    """

    def __init__(self, path: str | Path) -> None:
        self.origin = str(path)
        self._raw = map_file(Path(path))
        try:
            container = _open_zip(path, self._raw) if _is_zip(self._raw) else _open_row(self._raw)
            self._windows = _tensors(container.tree)
            for name, window in self._windows.items():
                _check(name, window, container.storages)
        except Refused as error:
            raise CheckpointError(
                f"{path}: refused: {error}; weights need only tensors, so use a .safetensors "
                "checkpoint or convert this one with software that you trust to run it"
            ) from error
        except ValueError as error:
            raise CheckpointError(
                f"{path}: not a whole torch checkpoint: {error}; download it again"
            ) from error
        self._container = container
        self.names = tuple(self._windows)

    def has(self, name: str) -> bool:
        """Say whether the file holds this tensor."""
        return name in self._windows

    def tensor(self, name: str) -> RawTensor:
        """Return a view of one tensor, or a copy where its strides or byte order need one.

        Raises CheckpointError if the file has no tensor of that name.
        """
        window = self._windows.get(name)
        if window is None:
            raise CheckpointError(f"{self.origin}: has no tensor {name!r:.200}")
        little = np.dtype(DTYPES[window.dtype][1])
        stored = little.newbyteorder(">") if self._container.big_endian else little
        storage = self._container.storages[window.storage.key]
        first = storage[0] + window.storage.first + window.offset * little.itemsize
        flat = self._raw[first : first + window.reach * little.itemsize].view(stored)
        steps = zip(window.strides, window.shape, strict=True)
        strides = [stride * little.itemsize if size > 1 else 0 for stride, size in steps]
        data = np.lib.stride_tricks.as_strided(flat, window.shape, strides, writeable=False)
        return RawTensor(name, window.dtype, window.shape, data.astype(little, "C", copy=False))


@dataclass(frozen=True, slots=True)
class _Container:
    """The pickle's value, and the bytes [begin, end) of the file for each storage."""

    tree: object
    storages: Mapping[str, tuple[int, int]]
    big_endian: bool


def _is_zip(raw: npt.NDArray[np.uint8]) -> bool:
    """Say whether the file starts as a zip archive does."""
    return raw[:4].tobytes() == b"PK\x03\x04"


def _open_zip(path: str | Path, raw: npt.NDArray[np.uint8]) -> _Container:
    """Read the archive's directory and pickle; the storages stay where they are."""
    spans = {name: _span(entry, raw) for name, entry in _entries(path).items()}
    roots = [name[: -len("data.pkl")] for name in spans if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise ValueError(f"its zip archive has {len(roots)} entries called data.pkl")
    begin, end = spans[f"{roots[0]}data.pkl"]
    if end - begin > MAX_PICKLE_BYTES:
        raise ValueError(f"its pickle has {end - begin} bytes, more than {MAX_PICKLE_BYTES}")
    tree, _ = read_pickle(raw.data[begin:end], 0, ALLOWED, partial(storage_of, {}))
    prefix = f"{roots[0]}data/"
    storages = {
        name[len(prefix) :]: span for name, span in spans.items() if name.startswith(prefix)
    }
    order = slice(*spans.get(f"{roots[0]}byteorder", (0, 0)))
    return _Container(tree, storages, _is_big_endian(raw[order].tobytes()))


def _entries(path: str | Path) -> dict[str, zipfile.ZipInfo]:
    """List the archive's entries by name."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            if len(entries) < len(archive.infolist()):
                raise ValueError("its zip archive has two entries of one name")
            return entries
    except (zipfile.BadZipFile, NotImplementedError, OverflowError, OSError, struct.error) as error:
        raise ValueError(f"its zip directory is damaged or cut off ({error})") from error


def _span(entry: zipfile.ZipInfo, raw: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Return where an entry's bytes lie in the file."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise ValueError(f"its entry {entry.filename!r:.200} is compressed, torch.save stores")
    start = entry.header_offset
    header = raw[start : start + LOCAL_HEADER_BYTES].tobytes() if start >= 0 else b""
    if len(header) < LOCAL_HEADER_BYTES or not header.startswith(b"PK\x03\x04"):
        raise ValueError(f"its entry {entry.filename!r:.200} is not where its directory says")
    name_bytes, extra_bytes = struct.unpack_from("<HH", header, 26)
    begin = start + LOCAL_HEADER_BYTES + name_bytes + extra_bytes
    end = begin + entry.file_size
    if end > len(raw):
        raise ValueError(
            f"its entry {entry.filename!r:.200} ends at byte {end} and the file has {len(raw)}"
        )
    return begin, end


def _is_big_endian(order: bytes) -> bool:
    """Read the archive's byte order; archives without one are little-endian."""
    if order not in (b"", b"little", b"big"):
        raise ValueError(f"its byte order {order!r:.40} is neither little nor big")
    return order == b"big"


def _open_row(raw: npt.NDArray[np.uint8]) -> _Container:
    """Read a file of the time before torch 1.6; its storages are always little-endian."""
    if raw[0] != PICKLE_START:
        raise ValueError("it is neither a zip archive nor a pickle")
    view = raw.data
    magic, at = read_pickle(view, 0, {})
    version, at = read_pickle(view, at, {})
    if magic != LEGACY_MAGIC or version != LEGACY_VERSION:
        raise ValueError("it does not start with torch's magic number and version 1001")
    _system, at = read_pickle(view, at, {})
    item_sizes: dict[str, int] = {}
    tree, at = read_pickle(view, at, ALLOWED, partial(storage_of, item_sizes))
    keys, at = read_pickle(view, at, {})
    return _Container(tree, _row_of_storages(raw, at, keys, item_sizes), big_endian=False)


def _row_of_storages(
    raw: npt.NDArray[np.uint8], at: int, keys: object, item_sizes: Mapping[str, int]
) -> dict[str, tuple[int, int]]:
    """Find each storage in the tail of an old file: 8 bytes of element count, then elements."""
    spans: dict[str, tuple[int, int]] = {}
    for key in keys if isinstance(keys, list) else ():
        if not isinstance(key, str) or key not in item_sizes:
            raise ValueError("it lists a storage that no tensor is in")
        begin = at + 8
        at = begin + int.from_bytes(raw[at:begin].tobytes(), "little") * item_sizes[key]
        if at > len(raw):
            raise ValueError(f"its storage {key!r:.80} ends at byte {at}, the file at {len(raw)}")
        spans[key] = (begin, at)
    return spans


def _tensors(tree: object) -> dict[str, Window]:
    """Keep what is a tensor at the top level of the pickle's value."""
    if not isinstance(tree, dict):
        raise ValueError(f"its top level is a {type(tree).__name__}, not a dictionary of tensors")
    windows = {str(name): value for name, value in tree.items() if isinstance(value, Window)}
    if not windows:
        names = ", ".join(f"{str(name)!r:.40}" for name in list(tree)[:5])
        raise ValueError(f"it has no tensors at its top level, which holds: {names or 'nothing'}")
    return windows


def _check(name: str, window: Window, storages: Mapping[str, tuple[int, int]]) -> None:
    """Raise ValueError unless every element of the tensor lies in its storage."""
    storage = window.storage
    if storage.key not in storages:
        raise ValueError(f"tensor {name!r:.200} is in storage {storage.key!r:.80}, not in the file")
    begin, end = storages[storage.key]
    item_size = nbytes_of(window.dtype, (1,))
    needed = max((window.offset + window.reach) * item_size, nbytes_of(window.dtype, window.shape))
    if needed > storage.nbytes or storage.first + storage.nbytes > end - begin:
        raise ValueError(
            f"tensor {name!r:.200} of {window.dtype} {list(window.shape)} does not fit in its "
            f"storage of {min(storage.nbytes, end - begin - storage.first)} bytes"
        )
