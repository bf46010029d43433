"""Keeps packed matrices on disk, so that the next start maps them instead of making them again.

One safetensors file per checkpoint and scheme: each matrix as its bytes, and their shapes and
formats in the header.  The name is a hash of everything that the contents depend on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from quire.config import cache_directory
from quire.errors import CheckpointError
from quire.ops.column_order import ColumnOrder
from quire.quant.packed import PackedMatrix
from quire.weights.safetensors import SafetensorsFile
from quire.weights.strict_json import parse_json

__all__ = ["describe_files", "pack_cache_path", "read_packed", "write_packed"]

logger = logging.getLogger(__name__)

VERSION = 2
"""Of the packed layout: older files are not read."""
KEY = "quire_packed"
ALIGNMENT = 64
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".json")
FACTS = (
    "dtype", "shape", "group_size", "has_zero_points", "has_minimums", "exponent", "table",
)  # fmt: skip
"""The fields of a PackedMatrix that stand in the header, behind whether it has an order of columns,
which follows its bytes."""


def pack_cache_path(directory: Path, scheme: str) -> Path:
    """Where the packed matrices of a checkpoint directory belong.

    The name changes with the scheme and with the name, size and time of every file of weights.
    """
    text = json.dumps([VERSION, scheme, str(directory.resolve()), describe_files(directory)])
    digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return cache_directory() / "packed" / f"{digest}.safetensors"


def describe_files(directory: Path) -> list[tuple[str, int, int]]:
    """The name, size and time in nanoseconds of every file of weights in a directory."""
    files = sorted(
        path for path in directory.iterdir() if path.suffix in WEIGHT_SUFFIXES and path.is_file()
    )
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def read_packed(
    path: Path, wanted: Mapping[str, tuple[int, ...]]
) -> dict[str, PackedMatrix] | None:
    """The wanted matrices, mapped; None when there is no such file, or not one to rely on."""
    try:
        if not path.is_file():
            return None
        file = SafetensorsFile(path)
        facts = parse_json(file.metadata.get(KEY, "{}").encode())
        return {name: _matrix(file, name, shape, facts) for name, shape in wanted.items()}
    except (OSError, CheckpointError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s: not used: %s; packing the weights again", path, error)
        return None


def write_packed(path: Path, matrices: Iterable[PackedMatrix]) -> bool:
    """Write matrices to a new file in one move; False, with a warning, when that cannot be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                for piece in _pieces(list(matrices)):
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        logger.warning("%s: the packed weights were not kept: %s", path, error)
        return False
    return True


def _pieces(matrices: list[PackedMatrix]) -> Iterable[bytes | memoryview]:
    facts = {m.name: [m.order is not None, *(getattr(m, each) for each in FACTS)] for m in matrices}
    header: dict[str, object] = {"__metadata__": {KEY: json.dumps(facts)}}
    at = 0
    for matrix in matrices:
        size = matrix.data.nbytes + _order_bytes(matrix)
        header[matrix.name] = {"dtype": "U8", "shape": [size], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    yield len(text).to_bytes(8, "little")
    yield text
    for matrix in matrices:
        yield matrix.data.data
        if matrix.order is not None:
            yield matrix.order.columns.astype("<i4").data


def _order_bytes(matrix: PackedMatrix) -> int:
    return 0 if matrix.order is None else 4 * matrix.shape[1]


def _matrix(
    file: SafetensorsFile, name: str, shape: tuple[int, ...], facts: Mapping[str, list[Any]]
) -> PackedMatrix:
    has_order, *values = facts[name]
    fields = dict(zip(FACTS, values, strict=True))
    rows, cols = fields["shape"]
    if (rows, cols) != tuple(shape):
        raise ValueError(f"{name!r} is {rows} × {cols}, not {' × '.join(map(str, shape))}")
    data, order = file.tensor(name).data, None
    if has_order:
        data, order = data[: -4 * cols], ColumnOrder(data[-4 * cols :].view("<i4"))
    fields |= {"shape": (rows, cols), "table": tuple(fields["table"])}
    return PackedMatrix(name, data=data, order=order, **fields)
