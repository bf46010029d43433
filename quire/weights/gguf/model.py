"""One GGUF model: a file, or the parts that `NAME-00001-of-0000N.gguf` is the first of."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.errors import CheckpointError
from quire.weights.gguf.container import GgufFile, GgufTensor

__all__ = ["SUFFIX", "GgufModel", "find_gguf", "open_gguf", "parts_of"]

SUFFIX = ".gguf"
PART = re.compile(r"(.*-)(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
MAX_PARTS = 4096


class GgufModel:
    """All parts as one.

    metadata: the first part's.  tensors: of all parts, by name.  Raises CheckpointError for parts
    that are missing, in excess or out of order, and for names that two of them have.
    """

    def __init__(self, path: Path) -> None:
        self.origin = str(path)
        files = [GgufFile(part) for part in parts_of(path)]
        self.metadata: Mapping[str, Any] = files[0].metadata
        self.tensors: dict[str, GgufTensor] = {}
        self._file_of: dict[str, GgufFile] = {}
        for number, file in enumerate(files):
            _check_part(file, number, len(files))
            for name, tensor in file.tensors.items():
                if name in self.tensors:
                    raise CheckpointError(f"{file.origin}: another part also has {name!r:.200}")
                self.tensors[name], self._file_of[name] = tensor, file

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """The bytes of a tensor, [bytes]: a view of the file."""
        return self._file_of[name].raw(self.tensors[name])


def open_gguf(path: Path) -> GgufModel:
    """The model at a path; while its files do not change, the same one for all who ask in turn.

    Its config, weights, tokenizer and sampling defaults are asked for one after the other, and a
    vocabulary takes a while to skip.  Raises CheckpointError for a damaged or missing file.
    """
    try:
        facts = tuple((part.stat().st_size, part.stat().st_mtime_ns) for part in parts_of(path))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    return _open(path.absolute(), facts)


@functools.lru_cache(maxsize=1)
def _open(path: Path, facts: tuple[tuple[int, int], ...]) -> GgufModel:
    return GgufModel(path)


def parts_of(path: Path) -> list[Path]:
    """The files that make up the model, in order.  Raises CheckpointError if some are missing."""
    match = PART.fullmatch(path.name)
    if match is None:
        return [path]
    stem, number, count = match[1], int(match[2]), int(match[3])
    if number != 1:
        raise CheckpointError(
            f"{path}: this is part {number} of {count}; give {stem}00001-of-{match[3]}.gguf"
        )
    if not 1 <= count <= MAX_PARTS:
        raise CheckpointError(f"{path}: a model in {count} parts; at most {MAX_PARTS} are read")
    parts = [path.with_name(f"{stem}{i:05}-of-{match[3]}.gguf") for i in range(1, count + 1)]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise CheckpointError(
            f"{path}: {len(missing)} of its {count} parts are missing: {', '.join(missing[:5])}; "
            "download them to the same folder"
        )
    return parts


def find_gguf(directory: Path) -> Path | None:
    """The one GGUF model in a directory; None unless there is just one, split or not."""
    names = sorted(name for name in os.listdir(directory) if name.endswith(SUFFIX))
    first = [name for name in names if not (part := PART.fullmatch(name)) or int(part[2]) == 1]
    return directory / first[0] if len(first) == 1 else None


def _check_part(file: GgufFile, number: int, count: int) -> None:
    """Compare what a file says of its place with its name."""
    says = file.metadata.get("split.count", 1), file.metadata.get("split.no", 0)
    if says not in ((count, number), (0, 0)) or (says == (0, 0) and count > 1):
        raise CheckpointError(
            f"{file.origin}: by its metadata it is part {says[1]!r:.20} (from 0) of "
            f"{says[0]!r:.20}, by its name part {number} of {count}"
        )
