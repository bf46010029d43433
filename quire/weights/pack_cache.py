"""Keeps packed matrices on disk, so that the next start maps them instead of making them again.

One safetensors file per checkpoint and scheme: each packed matrix as its bytes, with its shape and
format in the header; those that have no such layout as floats.  The name is a hash of
everything that the contents depend on.  Matrices are written while they are made, so that all of
them together may be larger than memory.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from quire.config import cache_directory
from quire.errors import CheckpointError
from quire.ops.column_order import ColumnOrder
from quire.quant.packed import PackedMatrix
from quire.weights.gguf.files import SUFFIX, parts_of
from quire.weights.safetensors import SafetensorsFile
from quire.weights.safetensors_writer import SafetensorsWriter
from quire.weights.strict_json import parse_json
from quire.weights.sweep_cache import mark_used, sweep
from quire.weights.tensor import RawTensor
from quire.whole_file import whole_file

__all__ = [
    "Kept",
    "describe_files",
    "kept_or_made",
    "pack_cache_path",
    "read_packed",
    "write_packed",
]

logger = logging.getLogger(__name__)

VERSION = 3
"""Of the packed layout: older files are not read."""
KEY = "quire_packed"
ALIGNMENT = 64
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".json")
FLOATS = ("F32", "F16", "BF16")
FACTS = tuple(fact.name for fact in fields(PackedMatrix) if fact.name not in ("name", "data"))
"""What is said of a packed matrix beside its bytes; of an order of columns, whether there is one:
then it stands behind the bytes."""

Kept: TypeAlias = PackedMatrix | RawTensor
Shapes = Mapping[str, tuple[int, ...]]


def pack_cache_path(directory: Path, scheme: str) -> Path:
    """Where the packed matrices of a checkpoint directory belong.

    The name changes with the scheme, with the machine's byte order, and with the name, size and
    time of every file of weights.
    """
    files = describe_files(directory)
    text = json.dumps([VERSION, sys.byteorder, scheme, str(directory.resolve()), files])
    digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return cache_directory() / "packed" / f"{digest}.safetensors"


def describe_files(directory: Path) -> list[tuple[str, int, int]]:
    """The name, size and time in nanoseconds of every file of weights in a directory.

    Of a GGUF model, of its file or its parts.
    """
    if directory.suffix == SUFFIX:
        files = parts_of(directory)
    else:
        files = sorted(
            path
            for path in directory.iterdir()
            if path.suffix in WEIGHT_SUFFIXES and path.is_file()
        )
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def kept_or_made(
    path: Path | None, wanted: Shapes, make: Callable[[], Iterable[Kept]]
) -> Mapping[str, Kept]:
    """The wanted matrices, mapped if they are kept at `path`, else made, and kept for next time.

    path: None keeps nothing.  make: one after the other, as they are asked for.
    """
    found = read_packed(path, wanted) if path is not None else None
    if found is None and path is not None and write_packed(path, wanted, make()):
        logger.info("packed weights are kept in %s", path)
        # Mapped pages can be dropped and read again; what is packed in memory cannot.
        found = read_packed(path, wanted)
    return {each.name: each for each in make()} if found is None else found


def read_packed(path: Path, wanted: Shapes) -> dict[str, Kept] | None:
    """The wanted matrices, mapped; None when there is no such file, or not one to rely on."""
    try:
        if not path.is_file():
            return None
        file = SafetensorsFile(path)
        facts = parse_json(file.metadata.get(KEY, "{}").encode())
        mark_used(path)
        return {name: _matrix(file, name, shape, facts) for name, shape in wanted.items()}
    except (OSError, CheckpointError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s: not used: %s; packing the weights again", path, error)
        return None


def write_packed(path: Path, wanted: Shapes, matrices: Iterable[Kept]) -> bool:
    """Write the wanted matrices, as they come, to a new file that takes its place in one move.

    False, with a warning, when that cannot be done.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with whole_file(path) as file:
            _write(file, wanted, matrices)
        sweep(path.parent, path)
    except OSError as error:
        logger.warning("%s: the packed weights were not kept: %s", path, error)
        return False
    return True


def _alignment(matrix: Kept) -> int:
    """The power of two that divides its size, up to a cache line."""
    size = _num_bytes(matrix)
    return min(size & -size, ALIGNMENT)


def _write(file: BinaryIO, wanted: Shapes, matrices: Iterable[Kept]) -> None:
    facts: dict[str, object] = {}
    writer = SafetensorsWriter(file, wanted)
    for matrix in _aligned_first(matrices):
        is_float = isinstance(matrix, RawTensor)
        dtype, shape = (matrix.dtype, matrix.shape) if is_float else ("U8", (_num_bytes(matrix),))
        writer.add(matrix.name, dtype, shape, _arrays(matrix))
        if isinstance(matrix, PackedMatrix):
            facts[matrix.name] = _facts(matrix)
    writer.finish({KEY: json.dumps(facts)})


def _aligned_first(matrices: Iterable[Kept]) -> Iterable[Kept]:
    """As they come, but those of odd sizes at the end, so that all stand at good places."""
    odd = []
    for matrix in matrices:
        if _alignment(matrix) == ALIGNMENT:
            yield matrix
        else:
            odd.append(matrix)
    yield from sorted(odd, key=_alignment, reverse=True)


def _arrays(matrix: Kept) -> list[np.ndarray]:
    if isinstance(matrix, PackedMatrix) and matrix.order is not None:
        return [matrix.data, matrix.order.columns]
    return [matrix.data]


def _num_bytes(matrix: Kept) -> int:
    return sum(array.nbytes for array in _arrays(matrix))


def _facts(matrix: PackedMatrix) -> dict[str, object]:
    return {**{fact: getattr(matrix, fact) for fact in FACTS}, "order": matrix.order is not None}


def _matrix(
    file: SafetensorsFile, name: str, shape: tuple[int, ...], facts: Mapping[str, dict[str, Any]]
) -> Kept:
    tensor = file.tensor(name)
    if tensor.dtype in FLOATS:
        if tensor.shape != tuple(shape):
            raise ValueError(f"{name!r} is {list(tensor.shape)}, not {list(shape)}")
        return tensor
    stored = facts[name]
    if not isinstance(stored, dict):
        raise ValueError(f"{name!r} is described by {stored!r:.80}")
    said: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
    if set(said) != set(FACTS) or said["shape"] != tuple(shape):
        raise ValueError(f"{name!r} is {facts[name]}, not {' × '.join(map(str, shape))}")
    data, said["order"] = _split_order(tensor.data, shape[1], said["order"])
    return PackedMatrix(name=name, data=data, **said)


def _split_order(
    data: npt.NDArray[np.uint8], cols: int, has_order: bool
) -> tuple[npt.NDArray[np.uint8], ColumnOrder | None]:
    if not has_order:
        return data, None
    return data[: -4 * cols], ColumnOrder(data[-4 * cols :].view("<i4").astype(np.int32))
